"""DeepLab-LargeFOV's decoder (Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015), without its CRF.

Letters: B batch, K classes, C channels, h w feature size.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from segrefine.core.registry import register_decoder
from segrefine.models.decoders.base import Decoder
from segrefine.models.upsampling import Interpolate

WIDTH = 1024
"""Channels of fc6 and fc7 (paper, Table 2 and the text on it; release, test.prototxt)."""

DILATION = 12
"""Of fc6's 3x3 kernel, the large field of view (paper, Table 2: "input stride"; release, test.prototxt)."""


@register_decoder("deeplab_largefov")
class DeepLabLargeFOVDecoder(Decoder):
    """VGG's fully connected layers as DeepLab-LargeFOV recasts them, on the map at stride 8.

    A 3x3 average pool of stride 1, fc6 (3x3 with dilation 12), fc7 (1x1), each with ReLU and dropout 0.5, and 1x1
    scores, brought to the pixels by bilinear interpolation (release, test.prototxt).

    Departure: fc6 and fc7 start at random. The release decimates VGG's own (paper, section 3.2).
    """

    def __init__(
        self, channels: Mapping[int, int], centers: Mapping[int, float], num_classes: int, options: Decoder.Options
    ) -> None:
        super().__init__(num_classes, options)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.fc6 = nn.Conv2d(channels[8], WIDTH, 3, padding=DILATION, dilation=DILATION)
        self.fc7 = nn.Conv2d(WIDTH, WIDTH, 1)
        self.relu6, self.relu7 = nn.ReLU(), nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)  # release
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.to_pixels = Interpolate(8, centers[8])

    @classmethod
    def needs(cls, options: Decoder.Options) -> tuple[str, ...]:
        """Ask for a VGG with the release's pools, which stays at stride 8."""
        return ("large_fov",)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """`{8: (B, C, h, w)}` -> scores (B, K, h, w)."""
        x = self.dropout(self.relu6(self.fc6(self.pool(features[8]))))
        x = self.dropout(self.relu7(self.fc7(x)))
        return self.classifier(x)
