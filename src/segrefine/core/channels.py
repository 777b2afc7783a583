"""Images that have other channels than red, green and blue: gray ones, and RGB with depth or HHA behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

RGB = 3


def spread(values: Sequence[float], channels: int) -> list[float]:
    """Return what holds for red, green and blue, such as a mean, for images of any number of channels.

    A single channel gets the average. Otherwise red's, green's and blue's values are repeated in turn, as the weights
    of pretrained encoders are (`segrefine.models.encoders.weights.adapt_input`).
    """
    if channels == 1:
        return [sum(values) / RGB]
    return [values[channel % RGB] for channel in range(channels)]


def to_rgb(images: "Tensor") -> "Tensor":
    """Return the picture to show of images (..., C, H, W), (..., 3, H, W): three channels, or of fewer one as gray."""
    if images.shape[-3] >= RGB:
        return images[..., :RGB, :, :]
    return images[..., :1, :, :].expand(*images.shape[:-3], RGB, *images.shape[-2:])
