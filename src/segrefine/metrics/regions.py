"""Counts by where a network is right: near the boundaries of the truth (trimaps), and by the size of its regions.

B images, K classes, H W size. Counts of a region are those of the first three of
`segrefine.metrics.scores.COUNTS`; they add up over images as these do.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from segrefine.core.labels import VOID
from segrefine.metrics.counting import count_per_image, window_max
from segrefine.metrics.scores import SIZE_LIMITS, SIZES, TRIMAP_WIDTHS

_NEIGHBORS = np.ones((3, 3), bool)  # eight of them: a line one pixel wide stays whole as it turns


def count_regions(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Intersection, truth and prediction within each of `REGIONS`, (B, 3 * len(REGIONS), K) int64, of maps (B, H, W)
    from `segrefine.metrics.segmentation.mark_void`."""
    trimaps = [_trimap_counts(predictions, labels, width, num_classes) for width in TRIMAP_WIDTHS]
    sizes = np.zeros((len(labels), len(SIZES), 3, num_classes), np.int64)
    for image, pair in enumerate(zip(predictions.numpy(force=True), labels.numpy(force=True), strict=True)):
        sizes[image] = size_counts(*pair, num_classes)
    return torch.cat([*trimaps, torch.from_numpy(sizes).flatten(1, 2).to(labels.device)], dim=1)


def _trimap_counts(predictions: Tensor, labels: Tensor, width: int, num_classes: int) -> Tensor:
    """(B, 3, K) of the pixels whose square of side 2 `width` + 1 holds another value of the truth, void included.
    What is outside the image is no boundary."""
    maps = F.pad(torch.stack([labels, ~labels]), (width,) * 4, value=0)  # 0 is never the largest value
    maps = window_max(window_max(maps, 2 * width + 1, dim=-1), 2 * width + 1, dim=-2)
    band = (maps[0] != ~maps[1]) & (labels != VOID)
    counted = [(labels, band & (predictions == labels)), (labels, band), (predictions, band)]
    return torch.stack([count_per_image(values.long(), mask, num_classes) for values, mask in counted], dim=1)


def size_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """(len(SIZES), 3, K) int64 of one image, (H, W) uint8 from `mark_void`: by size of the truth's connected regions.

    A region of a predicted class that touches regions of that class in the truth belongs to the one that it covers
    most of; its pixels outside of them are counted at that one's size. One that touches none is counted at no size.
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
    """For every pixel the number of the region to which its guess belongs, 0 for none; all (H, W) int."""
    both = (regions > 0) & (guesses > 0)
    pairs, areas = np.unique(np.stack([guesses[both], regions[both]]), axis=1, return_counts=True)
    owner = np.zeros(guesses.max(initial=0) + 1, np.int64)
    order = np.argsort(areas, kind="stable")  # the largest is written last
    owner[pairs[0, order]] = pairs[1, order]
    return owner[guesses]
