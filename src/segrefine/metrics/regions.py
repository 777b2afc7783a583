"""Count by where a network is right: near the boundaries of the truth (trimaps), and by the size of its regions.

Shapes: B images, K classes, H W size. The counts of a region are the first three of `segrefine.metrics.scores.COUNTS`.
They add up over images in the same way.
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
    """Count intersection, truth and prediction within each of `REGIONS`.

    Args:
        predictions: (B, H, W) from `segrefine.metrics.segmentation.mark_void`.
        labels: (B, H, W) from the same.
        num_classes: K.

    Returns:
        (B, 3 * len(REGIONS), K) int64.
    """
    trimaps = [_trimap_counts(predictions, labels, width, num_classes) for width in TRIMAP_WIDTHS]
    sizes = np.zeros((len(labels), len(SIZES), 3, num_classes), np.int64)
    for image, pair in enumerate(zip(predictions.numpy(force=True), labels.numpy(force=True), strict=True)):
        sizes[image] = size_counts(*pair, num_classes)
    return torch.cat([*trimaps, torch.from_numpy(sizes).flatten(1, 2).to(labels.device)], dim=1)


def _trimap_counts(predictions: Tensor, labels: Tensor, width: int, num_classes: int) -> Tensor:
    """Count the pixels near a boundary of the truth, (B, 3, K).

    A pixel counts if its square of side 2 `width` + 1 holds another value of the truth, void included. The edge of the
    image is no boundary.
    """
    maps = F.pad(torch.stack([labels, ~labels]), (width,) * 4, value=0)  # 0 is never the largest value
    maps = window_max(window_max(maps, 2 * width + 1, dim=-1), 2 * width + 1, dim=-2)
    band = (maps[0] != ~maps[1]) & (labels != VOID)
    counted = [(labels, band & (predictions == labels)), (labels, band), (predictions, band)]
    return torch.stack([count_per_image(values.long(), mask, num_classes) for values, mask in counted], dim=1)


def size_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of one image by the size of the truth's connected regions.

    If a region of a predicted class touches regions of that class in the truth, it belongs to the one that it covers
    most of. Its pixels outside of them count at that one's size. A region that touches none counts at no size.

    Args:
        prediction: (H, W) uint8 from `mark_void`.
        truth: (H, W) uint8 from the same.
        num_classes: K.

    Returns:
        (len(SIZES), 3, K) int64.
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
    pairs, areas = np.unique(np.stack([guesses[both], regions[both]]), axis=1, return_counts=True)
    owner = np.zeros(guesses.max(initial=0) + 1, np.int64)
    order = np.argsort(areas, kind="stable")  # the largest is written last
    owner[pairs[0, order]] = pairs[1, order]
    return owner[guesses]
