"""Exact counts over label maps, on any device. B images, H W size."""

import torch
from torch import Tensor


def window_max(maps: Tensor, size: int, dim: int) -> Tensor:
    """Largest value of each full window of `size` along `dim` (which gets size - 1 shorter), in log2(size) steps."""
    covered = 1
    while covered < size:
        step = min(covered, size - covered)
        length = maps.shape[dim] - step
        maps = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
        covered += step
    return maps


def count_per_image(values: Tensor, mask: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 occurs in `values` (B, H, W) int64 under the `mask`, per image: (B, bins) int64.

    One bincount without weights, where an extra bin takes what is masked: exact, allowed in deterministic mode, and
    much faster than torchmetrics' own, which in that mode compares every pixel with every bin.
    """
    images = len(values)
    offsets = torch.arange(images, device=values.device).view(-1, 1, 1) * bins
    indices = (values + offsets).where(mask, images * bins)
    return torch.bincount(indices.flatten(), minlength=images * bins + 1)[:-1].view(images, bins)
