"""Weights of classes that balance a loss, from how often each occurs. Shapes: K classes, N images."""

import numpy as np


def median_frequency(histograms: np.ndarray) -> np.ndarray:
    """Return the median of the class frequencies over each class's own frequency, (K,) float32; 0 for an absent class.

    A frequency is the class's fraction of the pixels of those images that it occurs in (Eigen & Fergus, ICCV 2015,
    section 6.3.2). Void does not count. SegNet's weights for CamVid counted void as a twelfth class.
    `histograms` are the pixels of each class in each image, (N, K).
    """
    totals = histograms.sum(axis=1, keepdims=True)
    counts, presence = histograms.sum(axis=0), (totals * (histograms > 0)).sum(axis=0)
    occurs = counts > 0
    weights = np.zeros(len(counts), np.float32)
    if occurs.any():
        frequency = counts[occurs] / presence[occurs]
        weights[occurs] = np.median(frequency) / frequency
    return weights
