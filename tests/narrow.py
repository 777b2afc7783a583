"""Encoders of an eighth of their width, for tests of training: what these ask is not in the width, and millions of
weights take their time in every step and checkpoint.

The fixture `narrow` of conftest.py puts them in place of torchvision's. `SEGREFINE_PLUGINS=narrow`, with this folder on
PYTHONPATH, does so in another process.
"""

import os
from functools import partial
from types import SimpleNamespace
from typing import Any

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers

SHARE = 8


class NarrowResNet(ResNet):
    """conv1 stays as it is."""

    def _make_layer(self, block: Any, planes: int, *rest: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // SHARE, *rest, **options)


def resnet(block: Any, layers: list[int], weights: None = None, **options: Any) -> ResNet:
    return NarrowResNet(block, layers, **options)


def vgg(widths: str, batch_norm: bool, weights: None = None) -> SimpleNamespace:
    """What an encoder takes of a VGG, its convolutions, initialized as torchvision's."""
    narrow = [width // SHARE if isinstance(width, int) else width for width in cfgs[widths]]
    features = make_layers(narrow, batch_norm)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return SimpleNamespace(features=features)


BLOCKS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
WIDTHS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}

NARROW: dict[str, Any] = {
    **{name: partial(resnet, *blocks) for name, blocks in BLOCKS.items()},
    **{name: partial(vgg, widths, False) for name, widths in WIDTHS.items()},
    **{f"{name}_bn": partial(vgg, widths, True) for name, widths in WIDTHS.items()},
}

if "narrow" in os.environ.get("SEGREFINE_PLUGINS", "").split(","):
    for name, build in NARROW.items():
        setattr(torchvision.models, name, build)
