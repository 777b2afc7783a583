"""How far a network's probabilities can be trusted, from counts. B images, H W size."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from segrefine.core.labels import VOID

BINS = 15
"""Bins of equal width into which confidences are sorted (Guo et al., ICML 2017, section 2 and Table 1)."""

UNITS = 2**24
"""Confidences are added up in whole units of 1 / UNITS, to which float32 resolves them, so sums are the same in any
order."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was found in each of `BINS` bins: (m - 1) / BINS < confidence <= m / BINS for m = 1 to BINS.

    Attributes:
        pixels: (BINS,) int64.
        confidence: mean probability of the predicted class, (BINS,) float64, NaN where there are no pixels.
        accuracy: share of pixels whose predicted class is right, likewise.
    """

    pixels: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al., section 2, equation 3), in [0, 1]; NaN without pixels."""
        gaps = np.abs(self.accuracy - self.confidence) * self.pixels
        total = self.pixels.sum()
        return float(np.nansum(gaps) / total) if total else float("nan")


class Calibration(Metric):
    """Counts of pixels that are not void by the confidence of the prediction. Memory does not grow with the set."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    pixels: Tensor
    right: Tensor
    confidence: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("pixels", "right", "confidence"):
            self.add_state(name, torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, confidences: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Count probabilities (B, H, W) float32 of the predicted classes, these (B, H, W), and labels (B, H, W)."""
        valid, confidences = labels != VOID, confidences.nan_to_num(0)  # of a network that computes no numbers
        bins = ((confidences * BINS).ceil().long() - 1).clamp(0, BINS - 1).where(valid, BINS).flatten()
        units = (confidences * UNITS).round()
        for state, values in ((self.pixels, valid), (self.right, predictions == labels), (self.confidence, units)):
            sums = torch.zeros(BINS + 1, dtype=torch.int64, device=bins.device)  # the last is for void
            state += sums.index_add_(0, bins, values.flatten().long())[:BINS]

    def compute(self) -> dict[str, np.ndarray]:
        """Return what was counted, summed over all processes; torchmetrics takes no dataclass here."""
        return {name: getattr(self, name).cpu().numpy() for name in ("pixels", "right", "confidence")}

    def reliability(self) -> Reliability:
        """Divide what was counted."""
        found = self.compute()
        with np.errstate(invalid="ignore"):
            confidence, accuracy = (found[name] / found["pixels"] for name in ("confidence", "right"))
        return Reliability(found["pixels"], confidence / UNITS, accuracy)
