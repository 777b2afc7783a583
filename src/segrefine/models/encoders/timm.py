"""Encoders of timm: any of its networks that gives maps at strides 4, 8, 16 and 32 for images of any size."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segrefine.core.channels import RGB
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.extras import require
from segrefine.io.tensors import first_line, misfits
from segrefine.models.encoders.base import Encoder
from segrefine.models.encoders.geometry import find_centers
from segrefine.models.encoders.weights import adapt_input, read_weights

log = logging.getLogger(__name__)

ANY_SIZE: tuple[dict[str, Any], ...] = ({}, {"dynamic_img_size": True})
"""Options of timm's networks, of which the first that lets one take images of any size is used."""


class Layout(NamedTuple):
    """What is known of a timm network before it is built.

    Attributes:
        options: what it is built with.
        strides: of the maps it gives, in order.
        channels: of each of them.
        taps: names of the modules that give them.
        channels_last: whether maps are (B, h, w, C).
        centers: `{stride: pixel}`.
    """

    options: dict[str, Any]
    strides: list[int]
    channels: list[int]
    taps: list[str]
    channels_last: bool
    centers: dict[int, float]


class TimmEncoder(Encoder):
    """A network of timm without its classifier, tapped where timm's `features_only=True` taps it.

    Images are padded at the bottom and on the right to a multiple of 32, so that maps are whole strides and centers
    stay put, however a network pads. `centers` are worked out from its layers (see
    `segrefine.models.encoders.geometry`). `mean` and `std` are those of its own weights, for red, green and blue.

    Args:
        name: as timm has it, such as "convnext_tiny" or "convnext_tiny.fb_in22k".
        needs: what a decoder asks for: "stride2" publishes the map at stride 2 where the network has one; "stride16"
            asks for dilation in place of the last stride.
        in_channels: of the images.

    Raises:
        UserError: There is no such network, or it does not give the maps that decoders take.
    """

    multiple = 32

    def __init__(self, name: str, needs: Collection[str] = (), in_channels: int = 3) -> None:
        super().__init__()
        self.name, self.in_channels = name, in_channels
        layout = find_layout(name, "stride16" in needs, in_channels)
        self.net: Any = _create(name, **layout.options)
        least = 2 if "stride2" in needs else 4
        self.taken = {stride: place for place, stride in enumerate(layout.strides) if stride >= least}
        self.channels = {stride: layout.channels[place] for stride, place in self.taken.items()}
        self.centers = {stride: layout.centers[stride] for stride in self.taken}
        self.channels_last = layout.channels_last
        self.mean, self.std = self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"]
        self._taps = layout.taps

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers up to stride 2, and those of the maps at stride 4, 8, 16 and 32, the last dilated or not.

        Where a network works on all strides at once, as HRNet does, all its layers are in the last stage.
        """
        taps = [_plain(tap) for tap in self._taps]
        units = list(_units("", self.net, taps))
        names = [name for name, _ in units]
        if not set(taps[-4:]) <= set(names):
            return [[], [], [], [], [module for _, module in units]]
        ends = [names.index(tap) for tap in taps[-4:]]  # each belongs to its stage
        first = names.index(taps[-5]) + 1 if len(taps) > 4 and taps[-5] in names else ends[0]
        cuts = [0, first, *(end + 1 for end in ends)]
        return [[module for _, module in units[start:stop]] for start, stop in pairwise(cuts)]

    def relus(self) -> dict[str, nn.Module]:
        """Return none: a network of timm does not say which of its activations a shortcut bypasses."""
        return {}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """(B, channels, H, W) -> {4, 8, 16, 32: (B, C, H / stride, W / stride)}, with 2 or without 32 where so needed.

        H and W are those after `prepare`.
        """
        maps = self.net(self.prepare(images))
        found = {stride: maps[place] for stride, place in self.taken.items()}
        return {stride: x.permute(0, 3, 1, 2) for stride, x in found.items()} if self.channels_last else found

    def load(self, weights: str) -> None:
        """Fill the network from timm's hub ("pretrained") or from a file with timm's key names.

        For other images than RGB, timm adapts what comes from the hub, and `adapt_input` a file, by the same rule.
        """
        if weights == "pretrained":
            self.net.load_state_dict(_from_hub(self.name, self.in_channels).state_dict())
            log.info(f"{self.name}: loaded timm's pretrained weights")
            return
        if weights.startswith("imagenet"):
            raise UserError(
                f"backbone.weights={weights} is for torchvision's networks. For timm's, use "
                "backbone.weights=pretrained."
            )
        tensors = read_weights(weights)
        wanted = _original_names(self.name, self.net.state_dict())
        found = {key: tensor for key, tensor in tensors.items() if key in wanted or key not in _all_names(self.name)}
        expected = {key: self.net.state_dict()[ours] for key, ours in wanted.items()}
        found = adapt_input(found, expected, self.in_channels)
        if problems := misfits(expected, found):
            raise UserError(f"backbone.weights={weights} does not fit timm's {self.name}. {problems}.")
        self.net.load_state_dict({wanted[key]: tensor for key, tensor in found.items()}, strict=False)
        log.info(f"{self.name}: loaded {len(found)} tensors from {weights}, all that the encoder has")


def _create(name: str, **options: Any) -> Any:
    """Build a network by timm's `features_only=True`, with random weights unless asked otherwise."""
    return require("timm", "timm", "backbone=timm").create_model(name, features_only=True, **options)


def _check_name(name: str) -> None:
    timm = require("timm", "timm", "backbone=timm")
    if not timm.is_model(name):  # names of files and of others' repositories are none
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = did_you_mean(name, near) if near else " Python's timm.list_models() names all."
        raise UserError(f"backbone.timm_name={name} is not a network of timm.{hint}")


@cache
def find_layout(name: str, dilated: bool = False, in_channels: int = 3) -> Layout:
    """Look at a network of timm without its weights, on the meta device; `dilated`, it stays at stride 16.

    Raises:
        UserError: It is unknown, or gives other maps than decoders take; the message says what is lacking.
    """
    _check_name(name)
    reason = ""
    for options in ANY_SIZE:
        options = options | ({"output_stride": 16} if dilated else {})
        options |= {"in_chans": in_channels} if in_channels != RGB else {}
        try:
            with torch.device("meta"):
                net = _create(name, **options).eval()
        except (TypeError, RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
            reason = reason or first_line(error)
            continue
        strides = net.feature_info.reduction()
        lacking = sorted({4, 8, 16, 32} - set(strides) - ({32} if dilated else set()))
        if lacking:
            raise UserError(
                f"backbone.timm_name={name} gives maps at strides {sorted(set(strides))}. It lacks "
                f"{', '.join(map(str, lacking))}, and decoders take 4, 8, 16 and 32."
            )
        if not (reason := _size_problem(net, strides, in_channels)):
            taps, channels = net.feature_info.module_name(), net.feature_info.channels()
            centers = find_centers(net, {stride: place for place, stride in enumerate(strides)}, in_channels)
            return Layout(options, strides, channels, taps, _channels_last(net), centers)
    verb = "dilated to stride 16, which the model asks for" if dilated else "used"
    images = "" if in_channels == RGB else f" for images of {in_channels} channels"
    raise UserError(f"backbone.timm_name={name} cannot be {verb}{images}: {reason}.")


def _size_problem(net: nn.Module, strides: Sequence[int], in_channels: int) -> str:
    """Return in words why a network, on the meta device, does not take images of any size; "" if it does."""
    for size in ((96, 160), (32, 64)):
        try:
            with torch.no_grad():
                maps = net(torch.empty(1, in_channels, *size, device="meta"))
        except Exception as error:  # whatever its layers raise: they are others'
            why = first_line(error).rstrip(".")
            return f"it does not take images of any size, such as {size[0]} x {size[1]} pixels ({why})"
        for stride, found in zip(strides, maps, strict=True):
            sides = tuple(found.shape[1:3] if _channels_last(net) else found.shape[2:4])
            if sides != (size[0] // stride, size[1] // stride):
                return f"its map at stride {stride} of {size[0]} x {size[1]} pixels has {sides[0]} x {sides[1]} cells"
    return ""


def _channels_last(net: nn.Module) -> bool:
    return "NHWC" in str(getattr(net, "output_fmt", ""))


def _plain(name: str) -> str:
    """Return a module's name as timm's wrappers write it, which flatten some of the dots."""
    return name.removeprefix("model.").replace(".", "_")


def _units(name: str, module: nn.Module, taps: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's modules in order, with their plain names, those that hold a tap taken apart."""
    for part, child in module.named_children():
        path = f"{name}.{part}".removeprefix(".")
        if path == "model" or any(tap.startswith(f"{_plain(path)}_") for tap in taps if tap != _plain(path)):
            yield from _units(path, child, taps)
        else:
            yield _plain(path), child


def _from_hub(name: str, in_channels: int) -> nn.Module:
    try:
        return _create(name, pretrained=True, **find_layout(name, in_channels=in_channels).options)
    except Exception as error:  # of the hub's client, of its network, or of timm where no weights are published
        raise UserError(
            f"backbone.weights=pretrained: weights of {name} could not be fetched ({first_line(error)}). Download them "
            f"on a machine with a network and give their path as backbone.weights=PATH."
        ) from error


@cache
def _all_names(name: str) -> frozenset[str]:
    """Return the names of all tensors of a network, those of its classifier too."""
    with torch.device("meta"):
        return frozenset(require("timm", "timm", "backbone=timm").create_model(name).state_dict())


def _original_names(name: str, ours: Mapping[str, Any]) -> dict[str, str]:
    """Return `{name of a tensor in timm's whole network: its name in the tapped one}`.

    The wrappers put "model." before a name or flatten one of its dots: stages.0 becomes stages_0.
    """
    known = _all_names(name)
    found = {}
    for key in ours:
        cuts = [place for place, letter in enumerate(key) if letter == "_"]
        spellings = (key, key.removeprefix("model."), *(f"{key[:cut]}.{key[cut + 1 :]}" for cut in cuts))
        found[next((spelling for spelling in spellings if spelling in known), key)] = key
    return found
