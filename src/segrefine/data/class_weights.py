"""Count how often each class occurs, and compute weights that balance a loss. Shapes: K classes, N images."""

import numpy as np


def class_pixels(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the pixels of each class from the pixels of each class in each image, (N, K).

    Returns:
        The pixels of each class over all images, and the non-void pixels of only the images that it occurs in. Both are
        (K,) int64.
    """
    totals = histograms.sum(axis=1, keepdims=True)
    return histograms.sum(axis=0), (totals * (histograms > 0)).sum(axis=0)


def median_frequency(counts: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Return the median of the class frequencies over each class's own frequency, (K,) float32; 0 for an absent class.

    A frequency is the class's fraction of the pixels of those images that it occurs in (Eigen & Fergus, ICCV 2015,
    section 6.3.2). Void does not count. SegNet's weights for CamVid counted void as a twelfth class.

    Args:
        counts: pixels of each class, (K,), as `class_pixels` returns them.
        presence: pixels of the images that each class occurs in, (K,), from the same function.
    """
    occurs = counts > 0
    weights = np.zeros(len(counts), np.float32)
    if occurs.any():
        frequency = counts[occurs] / presence[occurs]
        weights[occurs] = np.median(frequency) / frequency
    return weights
