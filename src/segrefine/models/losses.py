"""The losses of `recipe.loss`, in parts that can be computed band by band. B batch, K classes, H W size.

Pixels that are void count in none of them, and a batch that is all void has loss 0 and gradient 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefine.core.labels import VOID

LossName = Literal["mean", "sum", "ohem", "dice", "focal", "lovasz"]

FOCUS = 2.0
"""The exponent gamma of the focal loss (Lin et al., ICCV 2017, section 5.1)."""

HARD_BELOW = 0.7
"""Probability of the true class up to which a pixel is hard (`thresh` in CoinCheung/BiSeNet, lib/ohem_ce_loss.py)."""

LEAST_HARD = 16
"""At least one in so many valid pixels is taken for hard (`n_min`, same place)."""

Weights = Tensor | None
"""(K,) float32, or None for equal weights."""


@dataclass(frozen=True)
class Term:
    """A loss in two steps.

    Attributes:
        band: logits (B, K, rows, W), labels (B, rows, W) and class weights -> what the loss keeps of a band.
        finish: what was kept of all bands, labels (B, H, W) and class weights -> the loss, a scalar in float32.
    """

    band: Callable[[Tensor, Tensor, Weights], Tensor]
    finish: Callable[[Sequence[Tensor], Tensor, Weights], Tensor]


def by_name(loss: str | Mapping[LossName, float]) -> dict[str, float]:
    """Return the names of losses and what each is multiplied by."""
    return {loss: 1.0} if isinstance(loss, str) else dict(loss.items())


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Weights = None) -> Tensor:
    """Return the cross-entropy of each pixel, (B, rows, W), 0 where it is void.

    Reducing outside of `F.cross_entropy` is as fast and keeps training deterministic: on CUDA its 2-D form sums with
    atomic additions and is refused by `torch.use_deterministic_algorithms`, unless nothing is reduced. In fp32 also
    under autocast or for a half-precision network: log-sums over classes and sums over 1e6 pixels need it.
    """
    weights = None if weights is None else weights.float()
    return F.cross_entropy(logits.float(), labels.long(), weights, ignore_index=VOID, reduction="none")


def _weigh(labels: Tensor, weights: Weights) -> Tensor:
    """Return the weight of each pixel, (B, H, W) float32, 0 where it is void."""
    valid = labels != VOID
    return valid.float() if weights is None else weights.float()[labels.long().where(valid, 0)] * valid


def _total(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _tiny(divisor: Tensor) -> Tensor:
    """Keep a divisor from being zero."""
    return divisor.clamp(min=torch.finfo(torch.float32).tiny)


def _mean(parts: Sequence[Tensor], labels: Tensor, weights: Weights) -> Tensor:
    """Divide by the number of valid pixels, or the sum of their weights."""
    if weights is None:
        return _total(parts) / (labels != VOID).sum().clamp(min=1)
    return _total(parts) / _tiny(_weigh(labels, weights).sum())


def _focal_band(logits: Tensor, labels: Tensor, weights: Weights) -> Tensor:
    """(1 - p)^gamma times -log p of the true class (Lin et al., ICCV 2017, section 3.2, with softmax for sigmoid)."""
    losses = _cross_entropy(logits, labels)
    return (_weigh(labels, weights) * (-torch.expm1(-losses)) ** FOCUS * losses).sum()


def _ohem(parts: Sequence[Tensor], labels: Tensor, weights: Weights) -> Tensor:
    """Average over hard pixels (online hard example mining, Shrivastava et al., CVPR 2016, by pixel).

    Hard are those whose class has a probability up to `HARD_BELOW`, and at least a share of one in `LEAST_HARD`.
    """
    losses, valid = torch.cat(list(parts), 1), labels != VOID
    highest = losses.detach().masked_fill(~valid, -1).flatten().topk(max(losses.numel() // LEAST_HARD, 1)).values
    least = highest[(valid.sum() // LEAST_HARD - 1).clamp(min=0)]  # without waiting for a GPU to say how many
    shares = _weigh(labels, weights) * (losses >= least.clamp(max=-math.log(HARD_BELOW)))
    return (shares * losses).sum() / _tiny(shares.sum())


def _belongs(labels: Tensor, classes: int) -> Tensor:
    """Return whether each pixel belongs to each class, (B, K, H, W) bool."""
    return labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]


def _dice_band(logits: Tensor, labels: Tensor, weights: Weights) -> Tensor:
    """Return sums over the valid pixels, (3, K): of the true class's probability, of the probability, of pixels."""
    likely = logits.float().softmax(1) * (labels != VOID)[:, None]
    truth = _belongs(labels, logits.shape[1])
    return torch.stack([each.sum((0, 2, 3)) for each in (likely * truth, likely, truth.float())])


def _dice(parts: Sequence[Tensor], labels: Tensor, weights: Weights) -> Tensor:
    """1 - 2 |P T| / (|P| + |T|) (Milletari et al., 3DV 2016, section 3, without squares), over the batch as a whole."""
    both, likely, truth = _total(parts)
    return _mean_of_present(1 - 2 * both / (likely + truth).clamp(min=1), truth, weights)


def _mean_of_present(losses: Tensor, truth: Tensor, weights: Weights) -> Tensor:
    """Average the losses (K,) of the classes that have pixels in the truth, by their weights."""
    shares = (truth > 0).float() if weights is None else (truth > 0) * weights.float()
    return (shares * losses).sum() / _tiny(shares.sum())


def _lovasz(parts: Sequence[Tensor], labels: Tensor, weights: Weights) -> Tensor:
    """Return the Lovasz-softmax of the classes that are present (Berman et al., CVPR 2018, section 2), over the batch.

    It sorts the errors of all pixels, so the probabilities of all bands are kept.
    """
    likely = torch.cat(list(parts), 2)
    truth, valid = _belongs(labels, likely.shape[1]), (labels != VOID)[:, None]
    errors = ((truth.float() - likely).abs() * valid).transpose(0, 1).flatten(1)  # void has none, so it comes last
    errors, order = errors.sort(dim=1, descending=True, stable=True)
    hits = truth.transpose(0, 1).flatten(1).gather(1, order).long()
    count = hits.sum(1, keepdim=True)
    # IoU loss if the pixels up to each are wrong: what that pixel adds is the weight of its error.
    wrong = 1 - (count - hits.cumsum(1)) / (count + (1 - hits).cumsum(1)).float()
    gains = wrong.diff(dim=1, prepend=torch.zeros_like(wrong[:, :1]))
    return _mean_of_present((errors * gains).sum(1), count[:, 0], weights)


TERMS: dict[str, Term] = {
    "mean": Term(lambda *band: _cross_entropy(*band).sum(), _mean),
    # FCN's unnormalized loss (Shelhamer et al., PAMI 2016, "heavy" learning; `normalize: false` in the release).
    "sum": Term(lambda *band: _cross_entropy(*band).sum(), lambda parts, labels, weights: _total(parts)),
    "ohem": Term(lambda logits, labels, weights: _cross_entropy(logits, labels), _ohem),
    "dice": Term(_dice_band, _dice),
    "focal": Term(_focal_band, _mean),
    "lovasz": Term(lambda logits, labels, weights: logits.float().softmax(1), _lovasz),
}
