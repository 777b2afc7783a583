"""Transform images and labels together for training, uint8 throughout. Evaluation uses images as they are.

Every random draw comes from torch's global generator, which the data set seeds for each example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from segrefine.core.channels import RGB, spread
from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.core.options import Positive, Size

PAD_COLOR = (124, 116, 104)
"""Fills images smaller than the crop: ImageNet's mean color, which the usual normalization turns into zero.

Other channels get what `segrefine.core.channels.spread` makes of it, as for the normalization.
"""


@dataclass(frozen=True)
class Augmentation:
    """Random changes in training. The defaults change nothing.

    Attributes:
        scale: range of the factor by which an image is resized, drawn uniformly.
        flip: mirror left-right with probability 1/2.
        jitter: brightness, contrast and saturation are each multiplied by a factor from [1 - jitter, 1 + jitter].
            Channels behind RGB, such as depth, stay as they are.
        class_sampled: center the crop on a random pixel of a class drawn from those in the image, instead of anywhere,
            as RefineNet's release does (main/batch_do_data_crop.m, gen_crop_point_class_sample, in github
            guosheng/refinenet).
    """

    scale: Sequence[Positive] | None = None
    flip: bool = False
    jitter: Annotated[float, Interval(ge=0, le=1)] = 0.0
    class_sampled: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and (len(self.scale) != 2 or self.scale[0] > self.scale[1]):
            raise UserError(f"datamodule.augment.scale={self.scale} should be [low, high], low first, or null.")


def parse_crop_size(crop_size: Size) -> tuple[int, int] | None:
    """Return height and width in pixels from one number or `[height, width]`, or None; UserError for another list."""
    if crop_size is None or isinstance(crop_size, int):
        return None if crop_size is None else (crop_size, crop_size)
    if len(crop_size) != 2:
        raise UserError(f"datamodule.crop_size={crop_size} should be null, one number or [height, width], in pixels.")
    return crop_size[0], crop_size[1]


class TrainTransform:
    """Random scale, crop, flip and color jitter: the training recipe of FCN and RefineNet reimplementations.

    The crop's window is found first, and only that part is resized. If `crop_size` is null, the whole image is kept.
    """

    def __init__(self, crop_size: tuple[int, int] | None, augment: Augmentation) -> None:
        if crop_size is None and (augment.scale is not None or augment.class_sampled):
            raise UserError(
                "datamodule.augment.scale and class_sampled need datamodule.crop_size: without a crop the images of a "
                "batch would differ in size. Set crop_size, or augment.scale=null and augment.class_sampled=false."
            )
        self.crop_size, self.augment = crop_size, augment

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Transform an image (C, H, W) and label (H, W), both uint8, to crop_size. The label of padding is 255."""
        if self.crop_size is not None:
            scale = _uniform(*self.augment.scale) if self.augment.scale else 1.0
            image, label = random_crop(image, label, self.crop_size, scale, self.augment.class_sampled)
        if self.augment.flip and _uniform(0, 1) < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        if self.augment.jitter:
            image = color_jitter(image, self.augment.jitter)
        return image, label


def random_crop(
    image: Tensor, label: Tensor, size: tuple[int, int], scale: float, class_sampled: bool = False
) -> tuple[Tensor, Tensor]:
    """Crop `size` (h, w) from the image enlarged `scale` times. A smaller image is padded below and to the right.

    The window in the source has whole pixels, so the true scales of the two axes differ from `scale` by rounding.
    """
    height, target_height = _extent(size[0], label.shape[0], scale)
    width, target_width = _extent(size[1], label.shape[1], scale)
    row, column = (_class_pixel(label) if class_sampled else None) or (None, None)
    top, left = _start(row, height, label.shape[0]), _start(column, width, label.shape[1])
    image = image[:, top : top + height, left : left + width]
    label = label[top : top + height, left : left + width]
    image, label = resize(image, label, (target_height, target_width))
    return pad(image, label, size)


def resize(image: Tensor, label: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Resize the image by antialiased bilinear and the label by nearest-exact interpolation.

    Plain "nearest" would shift borders by up to half a pixel.
    """
    if tuple(label.shape) == tuple(size):
        return image, label
    # The window of a photograph is rows with gaps between, channels last; without the gaps resizing is twice as fast.
    image = image[None].contiguous(memory_format=torch.channels_last)
    image = functional.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)[0]
    return image, functional.resize(label[None], list(size), InterpolationMode.NEAREST_EXACT)[0]


def pad(image: Tensor, label: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Extend both to `size` below and to the right, the image with PAD_COLOR and the label with void."""
    height, width = label.shape
    if (height, width) == size:
        return image, label
    color = [round(value) for value in spread(PAD_COLOR, len(image))]
    sides = [0, 0, size[1] - width, size[0] - height]
    return functional.pad(image, sides, fill=color), functional.pad(label[None], sides, fill=VOID)[0]


def color_jitter(image: Tensor, strength: float) -> Tensor:
    """Multiply brightness, contrast and saturation, in this order, each by a factor from 1 ± strength.

    Of an image (C, H, W) the first three channels change, which are RGB, or the first where there are fewer.
    """
    colors = RGB if len(image) >= RGB else 1
    if len(image) > colors:
        return torch.cat([color_jitter(image[:colors], strength), image[colors:]])
    for adjust in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
        image = adjust(image, _uniform(1 - strength, 1 + strength))
    return image


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _random_below(end: int) -> int:
    return int(torch.randint(end, ()))


def _extent(out: int, have: int, scale: float) -> tuple[int, int]:
    """Return how many of the source's `have` pixels to take along one axis, and how many of the `out` they fill."""
    wanted = max(round(min(out / scale, have + 1)), 1)  # a scale near 0 asks for more than any number
    if wanted <= have:
        return wanted, out
    return have, min(max(round(have * scale), 1), out)


def _start(center: int | None, take: int, have: int) -> int:
    """Return where a window of `take` pixels begins along one axis: around `center` if possible, or anywhere."""
    if center is None:
        return _random_below(have - take + 1)
    return min(max(center - take // 2, 0), have - take)


def _class_pixel(label: Tensor) -> tuple[int, int] | None:
    """Return row and column of a random pixel of a class drawn uniformly from those present; None if all is void."""
    present = torch.bincount(label.flatten(), minlength=VOID + 1)[:VOID].nonzero()
    if len(present) == 0:
        return None
    pixels = (label == present[_random_below(len(present))]).nonzero()
    row, column = pixels[_random_below(len(pixels))].tolist()
    return row, column
