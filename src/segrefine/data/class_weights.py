"""Count how often each class occurs, and compute weights that balance a loss. Shapes: K classes, N images."""

import numpy as np


def class_pixels(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of each class, and those of all classes in the images that it occurs in, both (K,) int64.

    `histograms` are the pixels of each class in each image, (N, K).
    """
    totals = histograms.sum(axis=1, keepdims=True)
    return histograms.sum(axis=0), (totals * (histograms > 0)).sum(axis=0)


def median_frequency(counts: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Return the median of the class frequencies over each class's own frequency, (K,) float32; 0 for an absent class.

    A frequency is the class's fraction of the pixels of those images that it occurs in (Eigen & Fergus, ICCV 2015,
    section 6.3.2). Void does not count. SegNet's weights for CamVid counted void as a twelfth class.
    `counts` and `presence` are what `class_pixels` returns.
    """
    occurs = counts > 0
    weights = np.zeros(len(counts), np.float32)
    if occurs.any():
        frequency = counts[occurs] / presence[occurs]
        weights[occurs] = np.median(frequency) / frequency
    return weights
