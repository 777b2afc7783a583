"""Count by where a network is right: near the boundaries of the truth (trimaps), and by the size of its regions.

Shapes: B images, K classes, H W size. The counts of a region are the first three of `segrefine.metrics.scores.COUNTS`.
They add up over images in the same way.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segrefine.core.labels import VOID
from segrefine.metrics.counting import count_within, near_others
from segrefine.metrics.scores import SIZE_LIMITS, SIZES, TRIMAP_WIDTHS

_NEIGHBORS = np.ones((3, 3), bool)  # eight of them: a line one pixel wide stays whole as it turns


def count_regions(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count intersection, truth and prediction within each of `REGIONS`, (B, 3 * len(REGIONS), K) int64.

    The maps (B, H, W) are from `segrefine.metrics.segmentation.mark_void`.
    """
    trimaps = [_trimap_counts(predictions, labels, width, num_classes) for width in TRIMAP_WIDTHS]
    pairs = zip(predictions.numpy(force=True), labels.numpy(force=True), strict=True)
    sizes = np.array([size_counts(*pair, num_classes) for pair in pairs], np.int64)
    sizes = sizes.reshape(len(labels), 3 * len(SIZES), num_classes)
    return torch.cat([*trimaps, torch.from_numpy(sizes).to(labels.device)], dim=1)


def _trimap_counts(predictions: Tensor, labels: Tensor, width: int, num_classes: int) -> Tensor:
    """Count the pixels near a boundary of the truth, (B, 3, K).

    A pixel counts if its square of side 2 `width` + 1 holds another value of the truth, void included. The edge of the
    image is no boundary.
    """
    band = near_others(labels, width, beyond=0) & (labels != VOID)
    return count_within(predictions, labels, band, band, num_classes)


def size_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of one image by the size of the truth's connected regions, (len(SIZES), 3, K) int64.

    If a region of a predicted class touches regions of that class in the truth, it belongs to the one that it covers
    most of. Its pixels outside of them count at that one's size. A region that touches none counts at no size.

    The maps (H, W) uint8 are from `mark_void`.
    """
    counts = np.zeros((len(SIZES), 3, num_classes), np.int64)
    for number in np.unique(truth[truth != VOID]):
        regions, count = ndimage.label(truth == number, _NEIGHBORS)
        guesses, _ = ndimage.label(prediction == number, _NEIGHBORS)
        areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(regions[guesses > 0], minlength=count + 1)[1:]
        strays = np.bincount(_owners(regions, guesses)[(regions == 0) & (guesses > 0)], minlength=count + 1)[1:]
        sizes = np.digitize(np.sqrt(areas), SIZE_LIMITS)
        for row, values in enumerate((hits, areas, hits + strays)):
            np.add.at(counts[:, row, number], sizes, values)
    return counts


def _owners(regions: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return for every pixel the number of the region to which its guess belongs, 0 for none; all (H, W) int."""
    both = (regions > 0) & (guesses > 0)
    count = regions.max(initial=0) + 1
    pairs, areas = np.unique(guesses[both].astype(np.int64) * count + regions[both], return_counts=True)
    pairs = pairs[np.argsort(areas, kind="stable")]  # the largest is written last
    owner = np.zeros(guesses.max(initial=0) + 1, np.int64)
    owner[pairs // count] = pairs % count
    return owner[guesses]
