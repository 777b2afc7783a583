"""The training loss: per-pixel cross-entropy that leaves void pixels out. B batch, K classes, H W size."""

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segrefine.core.labels import VOID
from segrefine.models.banded import LogitRows, logit_rows, spans

if TYPE_CHECKING:
    from segrefine.models.network import SegmentationModel

Reduction = Literal["mean", "sum"]


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of `logits` (B, K, H, W) against `labels` (B, H, W) uint8 or int64, 0..K-1 or VOID: a scalar, fp32.

    `mean` divides by the number of valid pixels (with `class_weights` (K,): by the sum of their weights), as
    `F.cross_entropy` does, but is 0 with zero gradient where that method gives NaN: when every pixel is void.
    `sum` adds up over pixels and images, FCN's unnormalised loss (Shelhamer et al., PAMI 2016, "heavy" learning;
    `normalize: false` in the authors' release); its learning rates are some 1e6 times smaller.
    """
    total = _sum(logits, labels, class_weights)
    return total if reduction == "sum" else total / _divisor(labels, class_weights)


def banded_loss(
    rows: LogitRows,
    labels: Tensor,
    num_classes: int,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    band: int | None = None,
) -> Tensor:
    """`segmentation_loss` of logits that never exist as a whole, forward or backward, equal to rounding.

    `rows(top, bottom)` gives the logits (B, K, bottom - top, W) of those rows. It is called for a band of them at a
    time, of `band` numbers or one row at least, and again in backward, since nothing of a band is kept.
    """
    total = labels.new_zeros((), dtype=torch.float32)
    for top, bottom in spans(labels.shape[1], num_classes * labels[:, 0].numel(), band):
        part = labels[:, top:bottom]
        total = total + checkpoint(_band_sum, rows, part, top, class_weights, use_reentrant=False)
    return total if reduction == "sum" else total / _divisor(labels, class_weights)


def training_loss(
    net: "SegmentationModel",
    images: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """`segmentation_loss` of what `net` says to `images` (B, 3, H, W), in bands where the logits of all pixels would be
    more than one."""
    rows = logit_rows(net, images)
    if rows is None:
        return segmentation_loss(net(images), labels, class_weights, reduction)
    return banded_loss(rows, labels, net.num_classes, class_weights, reduction)


@torch.no_grad()
def validation_loss(
    net: "SegmentationModel",
    images: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> tuple[Tensor, Tensor]:
    """`segmentation_loss` of what `net` says, and the best class of every pixel, (B, H, W) uint8; like `training_loss`
    in bands."""
    rows = logit_rows(net, images)
    if rows is None:
        logits = net(images)
        return segmentation_loss(logits, labels, class_weights, reduction), logits.argmax(1).to(torch.uint8)
    total, classes = labels.new_zeros((), dtype=torch.float32), []
    for top, bottom in spans(labels.shape[1], net.num_classes * labels[:, 0].numel()):
        logits = rows(top, bottom)
        total = total + _sum(logits, labels[:, top:bottom], class_weights)
        classes.append(logits.argmax(1).to(torch.uint8))
    loss = total if reduction == "sum" else total / _divisor(labels, class_weights)
    return loss, torch.cat(classes, 1)


def _band_sum(rows: LogitRows, labels: Tensor, top: int, class_weights: Tensor | None) -> Tensor:
    return _sum(rows(top, top + labels.shape[1]), labels, class_weights)


def _sum(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """The loss summed over pixels and images.

    Reducing here, not in `F.cross_entropy`, is as fast and keeps training deterministic: on CUDA its 2-D form sums with
    atomic additions and is refused by `torch.use_deterministic_algorithms`, unless nothing is reduced. In fp32 also
    under autocast or for a half-precision network: log-sums over classes and sums over 1e6 pixels need it.
    """
    weights = None if class_weights is None else class_weights.float()
    return F.cross_entropy(logits.float(), labels.long(), weights, ignore_index=VOID, reduction="none").sum()


def _divisor(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """The number of valid pixels, or the sum of their weights; never 0."""
    valid = labels != VOID
    if class_weights is None:
        return valid.sum().clamp(min=1)
    weights = class_weights.float()[labels.long().where(valid, 0)] * valid
    return weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
