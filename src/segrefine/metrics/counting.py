"""Count exactly over label maps, on any device. Shapes: B images, H W size."""

import torch
from torch import Tensor


def window_max(maps: Tensor, size: int, dim: int) -> Tensor:
    """Return the largest value of each full window of `size` along `dim`, in log2(size) steps.

    The result is size - 1 shorter along `dim`.
    """
    covered = 1
    while covered < size:
        step = min(covered, size - covered)
        length = maps.shape[dim] - step
        maps = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
        covered += step
    return maps


def count_per_image(values: Tensor, mask: Tensor, bins: int) -> Tensor:
    """Count how often each of 0..bins-1 occurs in each image of `values` (B, H, W) int64 under the `mask`.

    This is one bincount without weights, with an extra bin for what is masked. It is exact, allowed in deterministic
    mode, and much faster than that of torchmetrics, which in this mode compares every pixel with every bin.

    Returns:
        (B, bins) int64.
    """
    images = len(values)
    offsets = torch.arange(images, device=values.device).view(-1, 1, 1) * bins
    indices = (values + offsets).where(mask, images * bins)
    return torch.bincount(indices.flatten(), minlength=images * bins + 1)[:-1].view(images, bins)
