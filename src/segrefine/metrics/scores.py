"""Define the counts of every image and the scores that follow: FCN's four and Boundary IoU. K classes.

Everything is summed over the set before the first division, never averaged over batches or images. One image gives six
counts for each class (`COUNTS`). They add up, so a set, a resampled set and a single image are scored by the same
formulas. This module needs only NumPy, so finished runs are compared without loading PyTorch.
"""

import numpy as np

COUNTS = ("intersection", "truth", "prediction", "boundary_intersection", "boundary_truth", "boundary_prediction")
"""The 6 in (..., 6, K): pixels of a class in both maps, in the truth, in the prediction, and the same on boundaries."""

SCORES = ("mIoU", "boundary_IoU", "pixel_acc", "mean_acc", "fwIoU")
"""The scores of a set of images. The last three are FCN's besides mIoU."""

TRIMAP_WIDTHS = (1, 2, 4, 8, 16)
"""Pixels on either side of a boundary of the truth that a trimap includes. The measure is that of Kohli et al., "Robust
higher order potentials for enforcing label consistency", IJCV 2009, as DeepLab uses it (Chen et al., PAMI 2018)."""

SIZE_LIMITS = (16, 32, 64)
"""Limits between the sizes of regions: square roots of areas in pixels. At 32 a region is as large as a cell of the
coarsest map."""

SIZES = tuple(f"{low}_{high}" for low, high in zip((0, *SIZE_LIMITS), (*map(str, SIZE_LIMITS), "up"), strict=True))

REGIONS = (*(f"trimap_{width}" for width in TRIMAP_WIDTHS), *(f"size_{size}" for size in SIZES))

IMAGE_COUNTS = (*COUNTS, *(f"{region}_{count}" for region in REGIONS for count in COUNTS[:3]))
"""The counts of every image of a scored split: `COUNTS`, and the first three of them within each of `REGIONS`."""


def scores_from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of summed counts.

    Formulas: Long et al., CVPR 2015, section 5, with n_ii the intersections and t_i the truth; Boundary IoU likewise. A
    class absent from truth and prediction has IoU NaN and does not enter the means. Every class absent from the truth
    does not enter `mean_acc`.

    Args:
        counts: (..., 6 or more, K).

    Returns:
        Fractions in [0, 1], float64, shape (...), and `per_class` IoU, (..., K). A score without any class is NaN.
    """
    hits, truth, prediction, *boundary = np.moveaxis(counts[..., : len(COUNTS), :].astype(np.float64), -2, 0)
    union, total = truth + prediction - hits, truth.sum(-1)
    boundary_hits, boundary_truth, boundary_prediction = boundary
    with np.errstate(invalid="ignore"):
        iou = hits / union  # 0 / 0 is NaN
        return {
            "mIoU": mean_ratio(hits, union),
            "pixel_acc": hits.sum(-1) / total,
            "mean_acc": mean_ratio(hits, truth),
            "fwIoU": np.nansum(truth * iou, -1) / total,
            "boundary_IoU": mean_ratio(boundary_hits, boundary_truth + boundary_prediction - boundary_hits),
            "per_class": iou,
        }


def mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return the mean of parts / wholes over the last dimension, for wholes above zero; NaN if there are none."""
    there = wholes > 0
    ratios = np.divide(parts, wholes, out=np.zeros_like(parts), where=there)
    with np.errstate(invalid="ignore"):
        return ratios.sum(-1) / there.sum(-1)
