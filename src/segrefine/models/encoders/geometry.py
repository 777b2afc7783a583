"""Where the cells of any network's maps look, worked out from the operations that an image runs through."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PROBE = (96, 160)
"""Height and width of the image: maps at different strides differ in both, down to 3 x 5 at stride 32."""

PADS = ("aten.constant_pad_nd", "aten.reflection_pad2d", "aten.replication_pad2d")
LAYERS = ("aten.convolution", "aten.max_pool2d", "aten.avg_pool2d")
PRODUCTS = ("aten.bmm", "aten._scaled_dot_product")


class Place(NamedTuple):
    """Where the cells of a tensor look: cell j at pixel stride * j + center."""

    stride: int
    center: float

    def merged(self, stride: int) -> "Place":
        """Return the place of cells that were merged, by reshaping, to a coarser stride: in the middle of theirs."""
        return Place(stride, self.center + (stride - self.stride) / 2) if stride > self.stride else self


class Watch(TorchDispatchMode):
    """Follows the places of tensors through a network, on one axis.

    A layer with kernel k, dilation d and padding p looks at position d * (k - 1) / 2 - p of its input. Where tensors
    meet, as on the two paths of a residual block, the outcome looks at their mean, each weighted by its number of
    values; those of the finest stride count, since a coarser one was brought to it. A product of attention looks where
    its first factor does, the queries.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.places = {id(image): (image, Place(1, 0.0))}  # the tensor too, so that no other gets its id

    def find(self, tensor: Tensor) -> Place | None:
        """Return the place of a tensor's cells; None for one that does not come from the image."""
        _, place = self.places.get(id(tensor), (None, None))
        return place.merged(_stride(tensor)) if place else None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = str(function)
        place = self._meet(args[:1] if name.startswith(PRODUCTS) else args)
        if place and name.startswith(PADS):
            place = Place(place.stride, place.center - place.stride * args[1][0])
        elif place and name.startswith(LAYERS) and args[0].ndim == 4:
            place = _after_layer(place, args, "convolution" in name)
        if place:
            self.places |= {id(tensor): (tensor, place) for tensor in _tensors(made)}
        return made

    def _meet(self, args: Any) -> Place | None:
        found = [(place, tensor.numel()) for tensor in _tensors(args) if (place := self.find(tensor))]
        if not found:
            return None
        finest = min(place.stride for place, _ in found)
        weights = Counter[float]()
        for place, count in found:
            weights[place.center] += count if place.stride == finest else 0
        return Place(finest, sum(center * count for center, count in weights.items()) / (weights.total() or 1))


def _after_layer(place: Place, args: Any, convolution: bool) -> Place:
    """Return the place of a convolution's or pool's outcome, from the arguments that PyTorch calls it with."""
    if convolution:
        kernel, step, padding, dilation = args[1].shape[-1], args[3][-1], args[4][-1], args[5][-1]
    else:
        kernel, dilation = args[1][-1], 1
        step = args[2][-1] if len(args) > 2 and args[2] else kernel
        padding = args[3][-1] if len(args) > 3 else 0
    return Place(place.stride * step, place.center + place.stride * (dilation * (kernel - 1) / 2 - padding))


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results, those in lists too."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _stride(tensor: Tensor) -> int:
    """Return the stride at which a map (B, C, h, w) of the probe lies; 0 for any other tensor."""
    strides = (1, 2, 4, 8, 16, 32) if tensor.ndim == 4 else ()
    sides = tuple(tensor.shape[-2:])
    return next((stride for stride in strides if sides == (PROBE[0] // stride, PROBE[1] // stride)), 0)


def find_centers(net: nn.Module, maps: Mapping[int, int], in_channels: int = 3) -> dict[int, float]:
    """Find where in the image cell 0 of each map looks, on both axes: `{stride: center}` in pixels.

    Args:
        net: a network on the meta device, in eval mode, images (B, C, H, W) -> a list of maps.
        maps: `{stride: place in the list}`.
        in_channels: C of the images.
    """
    image = torch.empty(1, in_channels, *PROBE, device="meta")
    with torch.no_grad(), Watch(image) as watch:
        outputs = net(image)
    found = {stride: watch.find(outputs[place]) or Place(1, 0.0) for stride, place in maps.items()}
    return {stride: place.merged(stride).center for stride, place in found.items()}
