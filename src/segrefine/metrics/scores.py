"""What is counted of every image, and the scores that follow: FCN's four and Boundary IoU. K classes.

Everything is summed over the set before the first division, never averaged over batches or images. One image gives six
counts per class (`COUNTS`); these add up, so a set, a resampled set and a single image are scored by the same formulas.
NumPy alone, so that finished runs are compared without loading PyTorch.
"""

import numpy as np

COUNTS = ("intersection", "truth", "prediction", "boundary_intersection", "boundary_truth", "boundary_prediction")
"""The 6 in (.., 6, K): pixels of a class in both maps, in the truth, in the prediction; the same on boundaries."""

TRIMAP_WIDTHS = (1, 2, 4, 8, 16)
"""Pixels on either side of a boundary of the truth that a trimap takes in; the measure is that of Kohli et al., "Robust
higher order potentials for enforcing label consistency", IJCV 2009, as DeepLab uses it (Chen et al., PAMI 2018)."""

SIZE_LIMITS = (16, 32, 64)
"""Where one size of regions ends and the next begins: square roots of areas in pixels. At 32 a region is as large as a
cell of the coarsest map."""

SIZES = tuple(f"{low}_{high}" for low, high in zip((0, *SIZE_LIMITS), (*map(str, SIZE_LIMITS), "up"), strict=True))

REGIONS = (*(f"trimap_{width}" for width in TRIMAP_WIDTHS), *(f"size_{size}" for size in SIZES))

IMAGE_COUNTS = (*COUNTS, *(f"{region}_{count}" for region in REGIONS for count in COUNTS[:3]))
"""What is kept of every image of a scored split: `COUNTS`, and the first three within each of `REGIONS`."""


def scores_from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of summed `counts` (.., 6 or more, K): fractions in [0, 1], float64, shape (..), and
    `per_class` IoU (.., K).

    Formulas: Long et al., CVPR 2015, section 5, with n_ii the intersections and t_i the truth; Boundary IoU likewise.
    A class absent from truth and prediction has IoU NaN and is left out of the means, in `mean_acc` every class absent
    from the truth is. A score is NaN where nothing is left.
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
    """Return the mean of parts / wholes over the last dimension, where the whole is above zero; NaN where none is."""
    there = wholes > 0
    ratios = np.divide(parts, wholes, out=np.zeros_like(parts), where=there)
    with np.errstate(invalid="ignore"):
        return ratios.sum(-1) / there.sum(-1)
