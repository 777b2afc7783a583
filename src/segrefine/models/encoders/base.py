"""Define the interface of every encoder. `segrefine.models.encoders` explains the parts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What torchvision's ImageNet weights were trained with (torchvision/transforms/_presets.py, ImageClassification).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MIN_SIDE = 32
"""The least height and width of an image in pixels: one cell at stride 32."""


def pad_small(maps: Tensor, value: int | None = None) -> Tensor:
    """Lengthen sides below `MIN_SIDE` at the bottom and on the right.

    Args:
        maps: (B, ..., H, W), with H and W at least 1.
        value: of the new pixels; None repeats the last row and column of (B, C, H, W) in floating point.
    """
    height, width = maps.shape[-2:]
    if height >= MIN_SIDE and width >= MIN_SIDE:
        return maps
    sides = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
    return F.pad(maps, sides, mode="replicate") if value is None else F.pad(maps, sides, value=value)


class Encoder(nn.Module, ABC):
    """Images (B, C, H, W) to maps keyed by stride, or by (stride, scale) from an encoder of several scales."""

    channels: dict[Any, int]
    centers: dict[Any, float]
    depths: Mapping[int, int] = {}
    scale: float = 1.0
    multiple: int = 1
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    """Mean and deviation of each channel, in [0, 1], of the images that the weights were made for."""
    cpu_layout = torch.channels_last
    """The order in memory that is fastest on a CPU; on a GPU it is channels last for all."""

    @property
    def scales(self) -> list[float]:
        """All scales at which images are looked at, the largest first."""
        return [self.scale]

    @property
    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """The layers in five lists, fine to coarse."""

    def relus(self) -> dict[str, nn.Module]:
        """Return the ReLUs that nothing bypasses, or modules that end in one, by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.ReLU)}

    def prepare(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) as the layers take them: at `scale`, sides lengthened to the next `multiple`."""
        images = resize(images, self.scale)
        height, width = images.shape[-2:]
        ends = (0, -width % self.multiple, 0, -height % self.multiple)
        return images if self.multiple == 1 else F.pad(images, ends, mode="replicate")


def for_channels(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a first convolution like `layer` for images of so many channels; `layer` itself if it has them.

    A new one starts as torchvision starts its own (models/resnet.py and vgg.py).
    """
    if layer.in_channels == channels:
        return layer
    size: Any = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
    other = nn.Conv2d(channels, layer.out_channels, **size, bias=layer.bias is not None)
    nn.init.kaiming_normal_(other.weight, mode="fan_out", nonlinearity="relu")
    if other.bias is not None:
        nn.init.zeros_(other.bias)
    return other


def resize(images: Tensor, scale: float) -> Tensor:
    """Resize images (B, C, H, W) by `scale`: bilinear, and antialiased if they get smaller."""
    if scale == 1:
        return images
    return F.interpolate(images, scaled_size(images.shape[-2:], scale), mode="bilinear", antialias=scale < 1)


def scaled_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Return (H, W) at `scale`, rounded, and no side under `MIN_SIDE`, the least that an encoder takes.

    In whole numbers, which torch.export can follow where it leaves the size free.
    """
    if scale == 1:
        return size[0], size[1]
    over, under = Fraction(scale).limit_denominator(1000).as_integer_ratio()
    height, width = (max(MIN_SIDE, (2 * side * over + under) // (2 * under)) for side in size)
    return height, width
