"""Score a set of images from the counts of each image: all classes, one class or a region.

Shapes: N images, C counts, K classes, R resamples of the images.
"""

from collections.abc import Sequence

import numpy as np

from segrefine.compare.resampling import CHUNK
from segrefine.core.errors import UserError, did_you_mean
from segrefine.metrics.scores import COUNTS, REGIONS, SCORES, mean_ratio, scores_from_counts
from segrefine.runs.read import Run

IOU_COUNTS = {"mIoU": "", "boundary_IoU": "boundary_"}
"""Means of IoU over classes, and the prefix of the counts that each needs. The prefix of a region is its name."""

WORST = {"image_mIoU": 1.0, "worst_10": 0.1}
"""Scores by image: the mean over all images, or over the worst tenth, of the mIoU of the classes in an image's label
(Wang et al., "Revisiting evaluation metrics for semantic segmentation", NeurIPS 2023)."""

MINUS = " - "
"""`trimap_2 - mIoU` is a run's score near boundaries minus its score on whole images."""

CLASS = "IoU:"
"""`IoU:road` is the IoU of the class road."""


def check_metric(metric: str, run: Run) -> None:
    """Raise UserError unless the run has the score: one of `SCORES`, `WORST` or `REGIONS`, or `IoU:CLASS`."""
    regions = [region for region in REGIONS if f"{region}_truth" in run.count_names]
    known = [*SCORES, *WORST, *regions, *(f"{CLASS}{name}" for name in run.classes)]
    for part in metric.split(MINUS) if metric not in known else []:
        if part not in known:
            raise UserError(f"metric={metric}: {run.folder.path} has no score {part!r}.{did_you_mean(part, known)}")


def score(run: Run, metric: str) -> float:
    """Return the run's score on its images, a fraction in [0, 1]; NaN if there is nothing to score."""
    return float(scores([run], metric)[0])


def mean_score(runs: Sequence[Run], metric: str) -> float:
    """Return the mean score of runs, such as the seeds of a variant; NaN if there is nothing to score."""
    return float(np.mean([score(run, metric) for run in runs]))


def scores(runs: Sequence[Run], metric: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the scores of runs on the same images.

    One matrix product serves all runs. It is exact without weights and in single precision with them.

    Args:
        runs: all scored on the same images.
        metric: see `check_metric`.
        weights: (R, N) how often to count each image in each resample; None to count each once.

    Returns:
        (runs,) without weights, otherwise (runs, R).
    """
    if (parts := _parts(runs[0], metric)) != [metric]:
        first, *others = (scores(runs, part, weights) for part in parts)
        return first - sum(others)
    if metric in WORST:
        return np.stack([worst_mean(image_scores(run), WORST[metric], weights) for run in runs])
    counts = np.stack([_counts(run, metric) for run in runs], axis=1)  # (N, runs, C, K)
    if weights is None:
        return _ratios(counts.sum(0).astype(np.float64), metric)
    flat = counts.reshape(len(counts), -1).astype(np.float32)
    chunks = []
    for chunk in np.split(weights, range(CHUNK, len(weights), CHUNK)):
        totals = (chunk.astype(np.float32) @ flat).reshape(len(chunk), *counts.shape[1:])
        chunks.append(_ratios(np.moveaxis(totals, 1, 0).astype(np.float64), metric))
    return np.concatenate(chunks, axis=1)


def _ratios(totals: np.ndarray, metric: str) -> np.ndarray:
    """Return scores (...) from counts (..., C, K) summed over images."""
    if metric in SCORES and metric not in IOU_COUNTS:
        return scores_from_counts(totals)[metric]
    hits, truth, prediction = np.moveaxis(totals, -2, 0)
    return mean_ratio(hits, truth + prediction - hits)


def image_scores(run: Run) -> np.ndarray:
    """Return the mIoU of the classes in each image's label, (N,); NaN for an image that is void."""
    hits, truth, prediction = np.moveaxis(run.rows().astype(np.float64), 1, 0)
    return mean_ratio(hits, np.where(truth > 0, truth + prediction - hits, 0))


def worst_mean(values: np.ndarray, share: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the lowest `share` of values (N,), skipping NaN: a number, or (R,) with weights (R, N)."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    if weights is None:
        return worst_mean(values, share, np.ones((1, len(values))))[0]
    means = []
    for chunk in np.split(weights, range(CHUNK, len(weights), CHUNK)):
        drawn = chunk[:, order].astype(np.float64)
        until = drawn.cumsum(1)
        taken = np.clip(share * drawn.sum(1, keepdims=True) - (until - drawn), 0, drawn)
        with np.errstate(invalid="ignore"):
            means.append(taken @ values[order] / taken.sum(1))
    return np.concatenate(means)


def least_possible(run: Run, metric: str) -> float:
    """Return the least value that the score can have: 0 or, of one score minus others, -1."""
    return 1.0 - len(_parts(run, metric))


def images_with(run: Run, metric: str) -> int:
    """Count the images that hold something the score rests on, such as the class of `IoU:CLASS`."""
    held = [_counts(run, part)[:, 1].sum(-1) > 0 for part in _parts(run, metric)]
    return int(min(part.sum() for part in held))


def _parts(run: Run, metric: str) -> list[str]:
    """Return the scores that a metric is made of: the first, and those subtracted from it."""
    return [metric] if metric.removeprefix(CLASS) in run.classes else metric.split(MINUS)


def _counts(run: Run, metric: str) -> np.ndarray:
    """Return the counts that a score needs, (N, C, K): intersection, truth and prediction first."""
    if metric.startswith(CLASS):
        return run.counts[:, :3, [run.classes.index(metric.removeprefix(CLASS))]]
    if metric in SCORES and metric not in IOU_COUNTS:
        return run.counts[:, : len(COUNTS)]
    if metric in WORST:
        return run.rows()
    return run.rows(IOU_COUNTS.get(metric, f"{metric}_"))
