"""torchvision's heads on a dilated ResNet's map at stride 8: FCN's and DeepLabV3's.

Letters: B batch, K classes, C channels, h w feature size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from segrefine.core.options import Positive
from segrefine.core.registry import register_decoder
from segrefine.models.decoders.base import AuxiliaryHead, Decoder
from segrefine.models.upsampling import Interpolate, Resize


class DilatedDecoder(Decoder):
    """One head on the map at stride 8, which keeps resolution by dilation; RefineNet argues against that.

    Attributes:
        create_head: channels and classes -> the head.
    """

    create_head: Callable[[int, int], nn.Module]

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of `conf/model/fcn_dilated.yaml` and `deeplabv3.yaml`.

        Attributes:
            upsample: "resize", torchvision's, which takes a cell to look 3.5 pixels beside where it does, or
                "interpolate", exact (see `segrefine.models.upsampling`).
            auxiliary: weight of the loss of a second FCN head, in training alone, on the map before the last stage;
                torchvision's is 0.5 (references/segmentation/train.py, criterion). None for no such head.
        """

        upsample: Literal["resize", "interpolate"]
        auxiliary: Positive | None = None

    def __init__(
        self, channels: Mapping[Any, int], centers: Mapping[Any, float], num_classes: int, options: Options
    ) -> None:
        super().__init__(num_classes, options)
        self.head = self.create_head(channels[8], num_classes)
        self.to_pixels = Resize() if options.upsample == "resize" else Interpolate(8, centers[8])
        if options.auxiliary is not None:
            head = AuxiliaryHead(FCNHead(channels["auxiliary"], num_classes), self.to_pixels)
            self.auxiliary, self.auxiliary_weight = nn.ModuleList([head]), options.auxiliary

    @classmethod
    def needs(cls, options: Options) -> tuple[str, ...]:
        """Ask for a ResNet that stays at stride 8, and for what an auxiliary head takes."""
        return ("dilation",) if options.auxiliary is None else ("dilation", "auxiliary")

    def score_layers(self) -> list[nn.Conv2d]:
        heads = [self.head, *(head.score for head in self.auxiliary or ())]
        return [head[-1] for head in heads]  # type: ignore[index, misc]

    def forward(self, features: Mapping[Any, Tensor]) -> Tensor:
        """`{8: (B, C, h, w)}` -> scores (B, K, h, w)."""
        return self.head(features[8])

    def all_scores(self, features: Mapping[Any, Tensor]) -> list[Tensor]:
        return [self(features), *(head(features["auxiliary"]) for head in self.auxiliary or ())]


@register_decoder("fcn_dilated")
class DilatedFCNDecoder(DilatedDecoder):
    """torchvision's FCN head (torchvision/models/segmentation/fcn.py).

    3x3 convolution to C/4, batch norm, ReLU, dropout 0.1, 1x1 scores.
    """

    create_head = staticmethod(FCNHead)


@register_decoder("deeplabv3")
class DeepLabV3Decoder(DilatedDecoder):
    """torchvision's DeepLabV3 head (Chen et al., 2017; torchvision/models/segmentation/deeplabv3.py).

    Atrous spatial pyramid pooling with rates 12, 24 and 36 to 256 channels, 3x3 convolution, batch norm, ReLU, 1x1
    scores.
    """

    create_head = staticmethod(DeepLabHead)
    pools_to_one = True
