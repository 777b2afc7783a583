"""A network whose logits are given, so that `Logits` can be asked about any numbers."""

from unittest import mock

from torch import Tensor, nn

from segrefine.models import logits as module
from segrefine.models.logits import Logits, Loss
from segrefine.models.network import SegmentationModel


class Given(SegmentationModel):
    has_rows = True
    heads = ()

    def __init__(self, logits: Tensor) -> None:
        nn.Module.__init__(self)
        self.logits, self.num_classes = logits, logits.shape[1]

    def forward(self, images: Tensor, upsampled: bool = True) -> Tensor:
        return self.logits

    def rows(self, scores: Tensor, width: int, top: int, bottom: int, to_pixels: None = None) -> Tensor:
        return scores[:, :, top:bottom]


def loss_of(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    reduction: Loss = "mean",
    band: int | None = None,
) -> Tensor:
    """The loss of these logits (B, K, H, W), as a whole or in bands of `band` numbers."""
    with mock.patch.object(module, "BAND", band or module.BAND):
        return Logits(Given(logits), logits).loss(labels, class_weights, reduction)
