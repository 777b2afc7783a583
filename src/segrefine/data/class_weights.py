"""How often each class occurs, and the weights that balance a loss by it. K classes, N images."""

import numpy as np


def class_pixels(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the pixels of each class in each image, (N, K): pixels of each class over all images, and non-void pixels of
    just the images it occurs in; both (K,) int64."""
    totals = histograms.sum(axis=1, keepdims=True)
    return histograms.sum(axis=0), (totals * (histograms > 0)).sum(axis=0)


def median_frequency(counts: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Median of the class frequencies over each class's own, (K,) float32, 0 for a class that never occurs. A frequency
    is the class's share of the pixels of those images it occurs in (Eigen & Fergus, ICCV 2015, section 6.3.2), both as
    `class_pixels` gives them: void counts nowhere. SegNet's weights for CamVid took void for a twelfth class."""
    occurs = counts > 0
    weights = np.zeros(len(counts), np.float32)
    if occurs.any():
        frequency = counts[occurs] / presence[occurs]
        weights[occurs] = np.median(frequency) / frequency
    return weights
