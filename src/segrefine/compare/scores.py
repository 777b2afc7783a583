"""Scores of a set of images from the counts of each: of all classes, of one class, of a region.

N images, C counts, K classes, R resamples of the images.
"""

import numpy as np
import torch

from segrefine.core.errors import UserError, did_you_mean
from segrefine.metrics.regions import REGIONS
from segrefine.metrics.segmentation import COUNTS, scores_from_counts
from segrefine.runs.read import Run

PLAIN = ("mIoU", "boundary_IoU", "pixel_acc", "mean_acc", "fwIoU")

MINUS = " - "
"""`trimap_2 - mIoU` is how far a run's score near boundaries is above that of its whole images."""

CLASS = "IoU:"
"""`IoU:road` is the IoU of the class road."""


def check_metric(metric: str, run: Run) -> None:
    """UserError if the run has no such score: one of `PLAIN`, a region (`trimap_2`, `size_0_16`) or `IoU:CLASS`."""
    regions = [region for region in REGIONS if f"{region}_truth" in run.count_names]
    known = [*PLAIN, *regions, *(f"{CLASS}{name}" for name in run.classes)]
    for part in metric.split(MINUS) if metric not in known else []:
        if part not in known:
            raise UserError(f"metric={metric}: {run.folder.path} has no score {part!r}.{did_you_mean(part, known)}")


def score(run: Run, metric: str, weights: np.ndarray | None = None) -> np.ndarray:
    """The run's score of its images, a fraction in [0, 1], or (R,) scores with each image taken as often as `weights`
    (R, N) say. NaN where nothing is left to be scored."""
    if MINUS in metric and metric.removeprefix(CLASS) not in run.classes:
        first, *others = (score(run, part, weights) for part in metric.split(MINUS))
        return first - sum(others)
    if metric in REGIONS:
        counts = run.rows(f"{metric}_")
    elif metric.startswith(CLASS):
        counts = run.rows()[..., [run.classes.index(metric.removeprefix(CLASS))]]
    else:
        counts = run.counts[:, : len(COUNTS)]
    totals = _weighted_sum(counts, weights)
    if metric in PLAIN:
        return scores_from_counts(torch.from_numpy(totals))[metric].numpy()
    hits, truth, prediction = np.moveaxis(totals, -2, 0)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(hits / (truth + prediction - hits)).nanmean(-1).numpy()


def _weighted_sum(counts: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(N, C, K) -> (C, K), or with weights (R, N) -> (R, C, K), float64, exact up to 2^53."""
    if weights is None:
        return counts.sum(0).astype(np.float64)
    return (weights @ counts.reshape(len(counts), -1).astype(np.float64)).reshape(len(weights), *counts.shape[1:])
