"""Scores of a set of images from the counts of each: of all classes, of one class, of a region.

N images, C counts, K classes, R resamples of the images.
"""

from collections.abc import Sequence

import numpy as np
import torch

from segrefine.core.errors import UserError, did_you_mean
from segrefine.metrics.regions import REGIONS
from segrefine.metrics.segmentation import COUNTS, scores_from_counts
from segrefine.runs.read import Run

PLAIN = ("mIoU", "boundary_IoU", "pixel_acc", "mean_acc", "fwIoU")

IOU_COUNTS = {"mIoU": "", "boundary_IoU": "boundary_"}
"""Means of IoU over classes, and how the names of the counts they need begin; those of a region with its name."""

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


def score(run: Run, metric: str) -> float:
    """The run's score of its images, a fraction in [0, 1]; NaN where nothing is left to be scored."""
    return float(scores([run], metric)[0])


def scores(runs: Sequence[Run], metric: str, weights: np.ndarray | None = None) -> np.ndarray:
    """(runs,) scores of the same images, or (runs, R) with each image taken as often as `weights` (R, N) say.

    One matrix product serves all runs; it is exact without weights, else in single precision.
    """
    if (parts := _parts(runs[0], metric)) != [metric]:
        first, *others = (scores(runs, part, weights) for part in parts)
        return first - sum(others)
    counts = np.stack([_counts(run, metric) for run in runs], axis=1)  # (N, runs, C, K)
    if weights is None:
        totals = counts.sum(0).astype(np.float64)
    else:
        flat = weights.astype(np.float32) @ counts.reshape(len(counts), -1).astype(np.float32)
        totals = np.moveaxis(flat.reshape(len(weights), *counts.shape[1:]), 1, 0).astype(np.float64)
    if metric in PLAIN and metric not in IOU_COUNTS:
        return scores_from_counts(torch.from_numpy(totals))[metric].numpy()
    hits, truth, prediction = np.moveaxis(totals, -2, 0)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(hits / (truth + prediction - hits)).nanmean(-1).numpy()


def images_with(run: Run, metric: str) -> int:
    """How many images hold something of what the score rests on, such as the class of `IoU:CLASS`."""
    held = [_counts(run, part)[:, 1].sum(-1) > 0 for part in _parts(run, metric)]
    return int(min(part.sum() for part in held))


def _parts(run: Run, metric: str) -> list[str]:
    """The scores that a metric is made of: the first, and those taken from it."""
    return [metric] if metric.removeprefix(CLASS) in run.classes else metric.split(MINUS)


def _counts(run: Run, metric: str) -> np.ndarray:
    """(N, C, K) counts that a score needs: intersection, truth and prediction first."""
    if metric.startswith(CLASS):
        return run.rows()[..., [run.classes.index(metric.removeprefix(CLASS))]]
    if metric in PLAIN and metric not in IOU_COUNTS:
        return run.counts[:, : len(COUNTS)]
    return run.rows(IOU_COUNTS.get(metric, f"{metric}_"))
