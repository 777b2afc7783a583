"""A network's logits for a batch, and the loss and the classes computed from them. B batch, K classes, H W size."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segrefine.models.losses import TERMS, LossName, by_name
from segrefine.models.network import SegmentationModel

BAND = 2**22
"""Logits of a band: 16 MiB of float32, which the caches of a server's processor hold."""

Loss = LossName | Mapping[LossName, float]
LossAt = Literal["pixels", "scores"]
Found = TypeVar("Found")

Terms = Mapping[str, float]
"""Losses by name, and what each is multiplied by."""


class Output(NamedTuple):
    """What a classifier of the network says: the last one, or an auxiliary head.

    Attributes:
        rows: the first row and the one after the last -> their logits (B, K, rows, W).
        scores: (B, K, h, w) on their own grid, if the loss is taken there.
        to_pixels: what brings these to the pixels; None for the decoder's.
    """

    rows: Callable[[int, int], Tensor]
    scores: Tensor | None = None
    to_pixels: nn.Module | None = None


class Logits:
    """The logits (B, K, H, W) of a network for normalized images (B, C, H, W).

    Where they are more than `BAND` numbers and the network's upsampling works by rows, they never exist as a whole: a
    band of rows is computed when it is needed, and again in the backward pass. Values are equal to rounding.

    With `loss_at="scores"` the loss is taken on the decoder's scores (B, K, h, w) as they are, against the labels of
    the pixels that these look at (`SegmentationModel.labels_at`): RefineNet's release does so.

    In training the loss has a part for each auxiliary head of the decoder, too: the same loss of its scores.
    """

    def __init__(self, net: Callable[..., Any], images: Tensor, loss_at: LossAt = "pixels") -> None:
        batch, _, *self.size = images.shape
        row = batch * self.size[1] * net.num_classes if isinstance(net, SegmentationModel) and net.has_rows else 0
        self.banded = row * self.size[0] > BAND
        self.step = max(BAND // row, 1) if self.banded else self.size[0]
        self.net: Any = net
        self._loss_at = loss_at
        coarse: Any = {"upsampled": False} if self.banded or loss_at == "scores" else {}
        heads = net.heads if isinstance(net, SegmentationModel) else []
        first, *others = net(images, auxiliary=True, **coarse) if heads else [net(images, **coarse)]
        self._last = self._from_scores(first) if coarse else Output(lambda top, bottom: first)
        self._heads = [self._from_scores(scores, head.to_pixels) for scores, head in zip(others, heads, strict=True)]

    def _from_scores(self, scores: Tensor, to_pixels: Any = None) -> Output:
        """Return the output of scores (B, K, h, w) on their own grid."""
        net, (height, width) = self.net, self.size

        def rows(top: int, bottom: int) -> Tensor:
            if self.banded:
                return net.rows(scores, width, top, bottom, to_pixels)
            return net.upsample(scores, (height, width), to_pixels)

        return Output(rows, scores if self._loss_at == "scores" else None, to_pixels)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the logits (B, K, rows, W) of each band, from the top down."""
        return (self._last.rows(*span) for span in self._spans())

    def loss(self, labels: Tensor, class_weights: Tensor | None = None, loss: Loss = "mean") -> Tensor:
        """Compute the loss over the pixels, or scores, that are not void, a scalar in float32.

        Args:
            labels: (B, H, W) uint8 or int64, 0..K-1 or VOID.
            class_weights: (K,), or None for equal weights.
            loss: a name of `segrefine.models.losses.TERMS`, or several and what each is multiplied by. "mean" divides
                the cross-entropy by the number of valid pixels (with `class_weights`: by the sum of their weights), as
                `F.cross_entropy` does, but gives 0 with zero gradient instead of NaN when every pixel is void. "sum"
                adds up over pixels and images; its learning rates are some 1e6 times smaller.
        """
        terms = by_name(loss)
        total = self._loss(self._last, labels, class_weights, terms)
        for head in self._heads:
            total = total + self.net.decoder.auxiliary_weight * self._loss(head, labels, class_weights, terms)
        return total

    def _loss(self, output: Output, labels: Tensor, class_weights: Tensor | None, terms: Terms) -> Tensor:
        scores = output.scores
        if scores is not None:
            labels = self.net.labels_at((scores.shape[2], scores.shape[3]), labels, output.to_pixels)
            return _finish(terms, [_keep(terms, scores, labels, class_weights)], labels, class_weights)
        kept = self._map(output, lambda logits, rows: _keep(terms, logits, labels[:, rows], class_weights))
        return _finish(terms, kept, labels, class_weights)

    @torch.no_grad()
    def classes(self) -> Tensor:
        """Find the class with the highest logit for every pixel, (B, H, W) uint8."""
        return torch.cat([best_classes(logits) for logits in self], 1)

    @torch.no_grad()
    def loss_and_classes(
        self, labels: Tensor, class_weights: Tensor | None = None, loss: Loss = "mean"
    ) -> tuple[Tensor, Tensor]:
        """Compute `loss` without a gradient, and `classes`, from the same bands."""
        if self._last.scores is not None:
            return self.loss(labels, class_weights, loss), self.classes()
        terms = by_name(loss)
        keep = partial(_keep, terms, class_weights=class_weights)
        found = self._map(self._last, lambda logits, rows: (keep(logits, labels[:, rows]), best_classes(logits)))
        kept, classes = zip(*found, strict=True)
        return _finish(terms, kept, labels, class_weights), torch.cat(classes, 1)

    def _map(self, output: Output, function: Callable[[Tensor, slice], Found]) -> list[Found]:
        """Call `function(logits, rows)` for every band, keeping nothing of its logits for the backward pass."""

        def of_band(top: int, bottom: int) -> Found:
            return function(output.rows(top, bottom), slice(top, bottom))

        if self.banded and torch.is_grad_enabled():
            return [checkpoint(of_band, *span, use_reentrant=False) for span in self._spans()]
        return [of_band(*span) for span in self._spans()]

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and the row after the last of every band."""
        height = self.size[0]
        return ((top, min(top + self.step, height)) for top in range(0, height, self.step))


def best_classes(logits: Tensor) -> Tensor:
    """Return the class with the highest of (B, K, h, w), (B, h, w) uint8."""
    return logits.argmax(1).to(torch.uint8)


def _keep(terms: Iterable[str], logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, ...]:
    """Return what each loss keeps of a band."""
    return tuple(TERMS[name].band(logits, labels, class_weights) for name in terms)


def _finish(terms: Terms, kept: Sequence[Sequence[Tensor]], labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Add up the losses from what they kept of every band."""
    parts = zip(*kept, strict=True)
    losses = [TERMS[name].finish(each, labels, class_weights) for name, each in zip(terms, parts, strict=True)]
    return torch.stack([factor * loss for factor, loss in zip(terms.values(), losses, strict=True)]).sum()
