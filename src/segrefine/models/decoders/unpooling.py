"""Decoders that undo the encoder's pools: SegNet and the deconvolution network.

SegNet: Badrinarayanan, Kendall, Cipolla, PAMI 2017. Deconvolution network: Noh, Hong, Han, ICCV 2015.

Letters: B batch, K classes, C channels, h w feature size, H W input size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from segrefine.core.options import Count
from segrefine.core.registry import register_decoder
from segrefine.models.decoders.base import Decoder
from segrefine.models.upsampling import Pixels


class UnpoolingDecoder(Decoder):
    """A decoder that undoes each pool, from the deepest to the first, and adds its stage's convolutions in reverse.

    Every convolution is followed by batch norm and ReLU. The last of a stage has the channels of the next finer map.

    Attributes:
        bottom: what the deepest map goes through first.
        stages: by the stride of its pool, what follows each unpooling, from coarse to fine.
        classifier: the layer that scores the pixels.
        kernel: its size; one of 3 takes the place of the first convolution's mirror image.
    """

    kernel: int

    def __init__(
        self,
        channels: Mapping[int, int],
        centers: Mapping[int, float],
        num_classes: int,
        options: Any,
        depths: Mapping[int, int],
    ) -> None:
        super().__init__(num_classes, options)
        self.bottom: nn.Module = nn.Identity()
        self.stages = nn.ModuleDict()
        for stride in sorted(depths, reverse=True):
            width, count = channels[stride], depths[stride] - (stride == 2 and self.kernel == 3)
            widths = [*[width] * count, channels.get(stride // 2, width)]
            layers = [layer for pair in pairwise(widths) for layer in convolution(*pair, size=3)]
            self.stages[str(stride)] = nn.Sequential(*layers)
        self.to_pixels = Pixels()
        self._add_bottom(channels[32])
        self.classifier = nn.Conv2d(channels[2], num_classes, self.kernel, padding=self.kernel // 2)

    def _add_bottom(self, deepest: int) -> None:
        """Set `bottom`, of so many channels."""

    @classmethod
    def needs(cls, options: Any) -> tuple[str, ...]:
        """Ask for the indices of the encoder's pools."""
        return ("indices",)

    def forward(self, features: Mapping[Any, Any]) -> Tensor:
        """`{32: (B, C, h, w), ("pool", stride): (indices, size)}` -> scores (B, K, H, W)."""
        x = self.bottom(features[32])
        for stride, stage in self.stages.items():
            x = stage(unpool(x, *features["pool", int(stride)]))
        return self.classifier(x)


@register_decoder("segnet")
class SegNetDecoder(UnpoolingDecoder):
    """SegNet's decoder: the encoder mirrored; the place of its first convolution is the 3x3 classifier's.

    As in the release (alexgkendall/SegNet-Tutorial, Models/segnet_train.prototxt), over VGG-16 with batch norm.
    """

    kernel = 3


@register_decoder("deconvnet")
class DeconvNetDecoder(UnpoolingDecoder):
    """The deconvolution network: VGG's fc6 and fc7 (7x7 and 1x1), a 7x7 layer back, the encoder mirrored, 1x1 scores.

    As in the release (HyeonwooNoh/DeconvNet, DeconvNet_inference_deploy.prototxt), with batch norm after every layer.
    Its deconvolutions have stride 1, so each is a convolution with the kernel turned by half a turn. Here they are
    convolutions, for which `model.init` holds.

    Departures: fc6 and the layer back are padded, so that maps keep their size and may be smaller than 7x7 (images
    below 224x224 pixels). fc6 and fc7 start at random. The release segments object proposals one by one, with the
    predictions of an FCN added; here the image is segmented as a whole.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options of `conf/model/deconvnet*.yaml`.

        Attributes:
            fc_channels: width of fc6 and fc7: 4096 as published.
        """

        fc_channels: Count

    kernel = 1

    def _add_bottom(self, deepest: int) -> None:
        width = self.options.fc_channels
        self.bottom = nn.Sequential(
            *convolution(deepest, width, size=7),
            *convolution(width, width, size=1),
            *convolution(width, deepest, size=7),
        )


def convolution(width: int, out: int, size: int) -> list[nn.Module]:
    """Return a convolution that keeps the map's size, batch norm and ReLU."""
    return [nn.Conv2d(width, out, size, padding=size // 2), nn.BatchNorm2d(out), nn.ReLU()]


def unpool(maps: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Put every value back where the pool took the largest from, zeros elsewhere.

    As `F.max_unpool2d`, which `torch.use_deterministic_algorithms` refuses.

    Args:
        maps: (B, C, h, w).
        indices: (B, C, h, w) int64 of cells of the finer map, counted along its rows.
        size: the finer map's height and width, of either parity.

    Returns:
        (B, C, *size).
    """
    flat = maps.new_zeros(*maps.shape[:2], size[0] * size[1])
    return flat.scatter(2, indices.flatten(2), maps.flatten(2)).unflatten(2, size)
