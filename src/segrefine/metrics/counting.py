"""Count exactly over label maps, on any device. Shapes: B images, H W size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def near_others(maps: Tensor, reach: int, beyond: int) -> Tensor:
    """Return whether the square of side 2 `reach` + 1 about each pixel of (..., H, W) uint8 holds another value.

    What lies `beyond` the image is another value with 255, and none with 0.
    """
    # The smallest value in a window is what the largest is among the complements, so one filter finds both.
    both = F.pad(torch.stack([maps, ~maps]), (reach,) * 4, value=beyond)
    for dim in (-1, -2):
        both = window_max(both, 2 * reach + 1, dim)
    return both[0] != ~both[1]


def window_max(maps: Tensor, size: int, dim: int) -> Tensor:
    """Return the largest value of each full window of `size` along `dim`, by which it is size - 1 shorter."""
    covered = 1  # doubled in each step
    while covered < size:
        step = min(covered, size - covered)
        length = maps.shape[dim] - step
        maps = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
        covered += step
    return maps


def count_per_image(values: Tensor, mask: Tensor, bins: int) -> Tensor:
    """Count how often each of 0..bins-1 occurs in each image of `values` (B, H, W) under the `mask`, (B, bins) int64.

    This is one bincount without weights, with an extra bin for what is masked. It is exact, allowed in deterministic
    mode, and much faster than that of torchmetrics, which in this mode compares every pixel with every bin.
    """
    images = len(values)
    offsets = torch.arange(images, device=values.device).view(-1, 1, 1) * bins
    indices = (values.long() + offsets).where(mask, images * bins)
    return torch.bincount(indices.flatten(), minlength=images * bins + 1)[:-1].view(images, bins)


def count_within(
    predictions: Tensor, labels: Tensor, in_prediction: Tensor, in_truth: Tensor, num_classes: int
) -> Tensor:
    """Count the pixels of each class in both maps, in the truth and in the prediction, (B, 3, K) int64.

    Those that count in the prediction and in the truth are (B, H, W) bool, as the maps.
    """
    hits = in_prediction & in_truth & (predictions == labels)
    counted = [(labels, hits), (labels, in_truth), (predictions, in_prediction)]
    return torch.stack([count_per_image(values, mask, num_classes) for values, mask in counted], dim=1)
