"""A network's logits for a batch, and the loss and the classes computed from them. B batch, K classes, H W size."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segrefine.models.losses import TERMS, LossName, by_name
from segrefine.models.network import SegmentationModel

BAND = 2**22
"""Logits of a band: 16 MiB of float32, which the caches of a server's processor hold."""

Loss = LossName | Mapping[LossName, float]
LossAt = Literal["pixels", "scores"]
Found = TypeVar("Found")


class Logits:
    """The logits (B, K, H, W) of a network for normalized images (B, 3, H, W).

    Where they are more than `BAND` numbers and the network's upsampling works by rows, they never exist as a whole: a
    band of rows is computed when it is needed, and again in the backward pass. Values are equal to rounding.

    With `loss_at="scores"` the loss is taken on the decoder's scores (B, K, h, w) as they are, against the labels of
    the pixels that these look at (`SegmentationModel.labels_at`): RefineNet's release does so.
    """

    def __init__(self, net: Callable[..., Tensor], images: Tensor, loss_at: LossAt = "pixels") -> None:
        batch, _, self.height, width = images.shape
        row = batch * width * net.num_classes if isinstance(net, SegmentationModel) and net.has_rows else 0
        self.banded = row * self.height > BAND
        self.step = max(BAND // row, 1) if self.banded else self.height
        self._scores: tuple[SegmentationModel, Tensor] | None = None  # where the loss is taken on them
        self._rows: Callable[[int, int], Tensor]
        if self.banded or loss_at == "scores":
            assert isinstance(net, SegmentationModel)
            scores = net(images, upsampled=False)
            if self.banded:
                self._rows = partial(net.rows, scores, width)
            else:
                self._rows = lambda top, bottom: net.upsample(scores, (self.height, width))
            if loss_at == "scores":
                self._scores = net, scores
        else:
            logits = net(images)
            self._rows = lambda top, bottom: logits

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the logits (B, K, rows, W) of each band, from the top down."""
        return (self._rows(*span) for span in self._spans())

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
        if self._scores is not None:
            net, scores = self._scores
            labels = net.labels_at((scores.shape[2], scores.shape[3]), labels)
            return _finish(terms, [_keep(terms, scores, labels, class_weights)], labels, class_weights)
        kept = self._map(lambda logits, rows: _keep(terms, logits, labels[:, rows], class_weights))
        return _finish(terms, kept, labels, class_weights)

    @torch.no_grad()
    def classes(self) -> Tensor:
        """Find the class with the highest logit for every pixel, (B, H, W) uint8."""
        return torch.cat([_best(logits) for logits in self], 1)

    @torch.no_grad()
    def loss_and_classes(
        self, labels: Tensor, class_weights: Tensor | None = None, loss: Loss = "mean"
    ) -> tuple[Tensor, Tensor]:
        """Compute `loss` without a gradient, and `classes`, from the same bands."""
        if self._scores is not None:
            return self.loss(labels, class_weights, loss), self.classes()
        terms = by_name(loss)
        found = self._map(
            lambda logits, rows: (_keep(terms, logits, labels[:, rows], class_weights), _best(logits)),
        )
        kept, classes = zip(*found, strict=True)
        return _finish(terms, kept, labels, class_weights), torch.cat(classes, 1)

    def _map(self, function: Callable[[Tensor, slice], Found]) -> list[Found]:
        """Call `function(logits, rows)` for every band, keeping nothing of its logits for the backward pass."""

        def of_band(top: int, bottom: int) -> Found:
            return function(self._rows(top, bottom), slice(top, bottom))

        if self.banded and torch.is_grad_enabled():
            return [checkpoint(of_band, *span, use_reentrant=False) for span in self._spans()]
        return [of_band(*span) for span in self._spans()]

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and the row after the last of every band."""
        return ((top, min(top + self.step, self.height)) for top in range(0, self.height, self.step))


def _best(logits: Tensor) -> Tensor:
    return logits.argmax(1).to(torch.uint8)


def _keep(terms: Iterable[str], logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, ...]:
    """Return what each loss keeps of a band."""
    return tuple(TERMS[name].band(logits, labels, class_weights) for name in terms)


def _finish(
    terms: Mapping[str, float], kept: Sequence[Sequence[Tensor]], labels: Tensor, class_weights: Tensor | None
) -> Tensor:
    """Add up the losses from what they kept of every band."""
    parts = zip(*kept, strict=True)
    losses = [TERMS[name].finish(each, labels, class_weights) for name, each in zip(terms, parts, strict=True)]
    return torch.stack([factor * loss for factor, loss in zip(terms.values(), losses, strict=True)]).sum()
