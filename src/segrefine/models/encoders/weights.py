"""Pretrained weights of encoders: torchvision's ImageNet weights or a local file with torchvision's key names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from segrefine.core.channels import RGB
from segrefine.core.errors import UserError, did_you_mean
from segrefine.io.tensors import first_line, misfits, read_tensors

log = logging.getLogger(__name__)

IMAGENET = {"imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
"""torchvision's weights: by the training recipe of the two papers' time, and by a later one, of deep ResNets alone."""


def load_encoder_weights(encoder: nn.Module, name: str, weights: str, in_channels: int = 3) -> None:
    """Fill `encoder` from "imagenet", "imagenet_v2" or a file.

    All tensors of the encoder must be there with their shapes, and nothing else but torchvision's classifier. Of the
    classifier, fc6 and fc7 are loaded if the encoder has them and the file's shapes fit. For images of other channels
    than RGB, the first convolution is adapted.

    Raises:
        UserError: the file cannot be read or does not fit, or torchvision's weights could not be fetched.
    """
    if weights in IMAGENET:
        tensors, source = _imagenet_weights(name, weights), f"torchvision's ImageNet weights, {IMAGENET[weights]}"
    else:
        tensors, source = read_weights(weights), weights
    wanted = encoder.state_dict()
    classifier = {key for key in tensors if key.startswith(("classifier.", "fc."))}
    found = {key: value for key, value in tensors.items() if key not in classifier} | _fully_connected(tensors, wanted)
    found = adapt_input(found, wanted, in_channels)

    optional = [key for key in wanted if key.startswith("classifier.")]  # may start at random
    if problems := misfits(wanted, found, optional):
        raise UserError(
            f"backbone.weights={weights} does not fit {name}, which has torchvision's key names. {problems}."
        )
    encoder.load_state_dict(found, strict=False)
    left = sorted({key.rsplit(".", 1)[0] for key in wanted.keys() - found.keys() if not key.endswith("tracked")})
    message = f"{name}: loaded {len(found)} tensors from {source}"
    log.info(message + (f"; not there, so left at random: {', '.join(left)}" if left else ", all that the encoder has"))


def adapt_input(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], in_channels: int) -> dict[str, Tensor]:
    """Return weights made for RGB with the first convolution adapted to images of `in_channels` channels.

    One channel gets the sum of red's, green's and blue's weights, so that gray images give what they gave as RGB.
    More channels get theirs in turn, times 3 / in_channels, so that the layer's outputs keep their size. This is the
    rule of timm (models/_manipulate.py, adapt_input_conv) and SMP (encoders/_utils.py, patch_first_conv). FCN's release
    keeps the weights of RGB and gives depth their mean (nyud-fcn32s-color-d/solve.py).

    Args:
        tensors: the weights by name.
        wanted: those of the network; a convolution (O, in_channels, k, k) whose tensor is (O, 3, k, k) is the first.
        in_channels: 1 or more.
    """

    def adapt(name: str, weight: Tensor) -> Tensor:
        like = wanted[name].shape if name in wanted else ()
        if in_channels == RGB or len(like) != 4 or weight.shape != (like[0], RGB, *like[2:]) or like[1] != in_channels:
            return weight
        if in_channels == 1:
            return weight.float().sum(1, keepdim=True)
        return weight.float()[:, [channel % RGB for channel in range(in_channels)]] * (RGB / in_channels)

    return {name: adapt(name, weight) for name, weight in tensors.items()}


def read_weights(weights: str) -> dict[str, Tensor]:
    """Read the file that `backbone.weights` names; UserError if there is no such file, or it cannot be read."""
    path = Path(weights).expanduser()
    if not path.exists():
        names = did_you_mean(weights, [*IMAGENET, "pretrained"])
        raise UserError(f"backbone.weights={weights}: there is no such file.{names}")
    return read_tensors(path)


def _fully_connected(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's classifier.0 and classifier.3 as the convolutions fc6 and fc7, if both shapes fit."""
    recast: dict[str, Tensor] = {}
    for layer, key in (("0", "classifier.fc6"), ("3", "classifier.fc7")):
        weight, bias = tensors.get(f"classifier.{layer}.weight"), tensors.get(f"classifier.{layer}.bias")
        target = wanted.get(f"{key}.weight")
        if weight is not None and bias is not None and target is not None and weight.numel() == target.numel():
            recast |= {f"{key}.weight": weight.reshape(target.shape), f"{key}.bias": bias}
    return recast


def _imagenet_weights(name: str, which: str) -> dict[str, Tensor]:
    """Return torchvision's weights, from its cache or the network."""
    known = torchvision.models.get_model_weights(name)
    weights: Any = known.__members__.get(IMAGENET[which])
    if weights is None:
        raise UserError(
            f"backbone.weights={which}: torchvision has no such weights for {name}, only for resnet50, resnet101 and "
            "resnet152. Use backbone.weights=imagenet."
        )
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # no network, no disk, or a damaged file
        file = Path(urlparse(weights.url).path).name
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"backbone.weights={which}: {file} could not be fetched ({first_line(error)}). Download {weights.url} on a "
            f"machine with a network and put it into {folder}, or give its path as backbone.weights=PATH."
        ) from error
