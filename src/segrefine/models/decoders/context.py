"""The dilation context module (Yu and Koltun, ICLR 2016), which any decoder's scores can go through.

Letters: B batch, K classes, h w size of the scores.
"""

from torch import Tensor, nn

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
"""Dilations of the 3x3 layers. After them and a 1x1 layer a score sees 67x67 scores (paper, Table 1)."""


class DilationContext(nn.Sequential):
    """The basic context module: seven 3x3 convolutions of K channels, each with ReLU, and a 1x1 convolution.

    It starts as the identity (paper, section 3), so a network with it starts as the network without.

    Departure: the ReLUs would cut off negative scores, as they do in the release. Here the scores of a cell are lifted
    together until the lowest is 1, and lowered again at the end. Softmax and best class do not depend on such a shift.
    The lowest becomes 1, not 0, where a ReLU passes no gradient: FCN's scores, all zero at first, would stay so.
    """

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        for dilation in DILATIONS:
            layers.append(nn.Conv2d(num_classes, num_classes, 3, padding=dilation, dilation=dilation))
            layers.append(nn.ReLU())
        super().__init__(*layers, nn.Conv2d(num_classes, num_classes, 1))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, scores: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K, h, w)."""
        lift = 1 - scores.amin(1, keepdim=True)
        return super().forward(scores + lift) - lift
