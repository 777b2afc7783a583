"""The training loss: per-pixel cross-entropy that leaves void pixels out. B batch, K classes, H W size."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefine.labels import VOID


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy of `logits` (B, K, H, W) against `labels` (B, H, W) uint8 or int64, 0..K-1 or VOID: a scalar, fp32.

    `mean` divides by the number of valid pixels (with `class_weights` (K,): by the sum of their weights), as
    `F.cross_entropy` does, but is 0 with zero gradient where that method gives NaN: when every pixel is void.
    `sum` adds up over pixels and images, FCN's unnormalised loss (Shelhamer et al., PAMI 2016, "heavy" learning;
    `normalize: false` in the authors' release); its learning rates are some 1e6 times smaller.

    Reducing here, not in `F.cross_entropy`, is as fast and keeps training deterministic: on CUDA its 2-D form sums with
    atomic additions and is refused by `torch.use_deterministic_algorithms`, unless nothing is reduced.
    """
    targets = labels.long()
    # fp32 also under autocast or for a half-precision network: log-sums over classes and sums over 1e6 pixels need it.
    weights = None if class_weights is None else class_weights.float()
    losses = F.cross_entropy(logits.float(), targets, weights, ignore_index=VOID, reduction="none")
    if reduction == "sum":
        return losses.sum()

    valid = targets != VOID
    if weights is None:
        return losses.sum() / valid.sum().clamp(min=1)
    weight_sum = (weights[targets.where(valid, 0)] * valid).sum()
    return losses.sum() / weight_sum.clamp(min=torch.finfo(torch.float32).tiny)
