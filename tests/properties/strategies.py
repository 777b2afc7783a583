"""What the property tests (test_*_properties.py) share: how many examples they try, and ways to draw them.

`SEGREFINE_FUZZ=thousands pytest -n0 tests/properties/test_losses_properties.py` tries fifty times as many, new ones
each time.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from torch import Tensor, nn

from segrefine.core.labels import VOID
from segrefine.models.build import create_model
from segrefine.models.encoders import create_encoder
from segrefine.models.encoders.base import Encoder, resize
from segrefine.models.encoders.vgg import VGGEncoder
from segrefine.models.network import SegmentationModel

UPSAMPLINGS = ("learned", "fixed", "interpolate")

set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "hypothesis"))  # else it leaves a folder in the project
common = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate, Phase.shrink],
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("few", max_examples=40, derandomize=True, **common)
settings.register_profile("thousands", max_examples=2000, **common)
settings.load_profile(os.environ.get("SEGREFINE_FUZZ", "few"))


def examples(share: float) -> settings:
    """A share of the profile's examples, for tests in which one takes long; nor are those made smaller that fail."""
    return settings(max_examples=math.ceil(settings().max_examples * share), phases=[Phase.generate])


seeds = st.integers(0, 2**32 - 1)
class_numbers = st.integers(1, 5) | st.integers(1, 21)
void_shares = st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0])
layouts = st.sampled_from(["contiguous", "channels_last", "strided"])


def sizes(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    """Height and width, each drawn alone."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


def random_labels(seed: int, shape: Sequence[int], classes: int, void: float) -> np.ndarray:
    """0..classes-1 with a share of void, uint8, in patches of a random size; some classes may be absent."""
    rng = np.random.default_rng(seed)
    patch = int(rng.integers(1, 9))
    present = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
    coarse = rng.choice(present, [*shape[:-2], *(side // patch + 1 for side in shape[-2:])])
    labels = coarse.repeat(patch, -2).repeat(patch, -1)[..., : shape[-2], : shape[-1]]
    return np.where(rng.random(shape) < void, VOID, labels).astype(np.uint8)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values (B, C, H, W) in another order in memory; `strided` has gaps between them."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return tensor.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)[..., ::2, ::2]
    return tensor


@cache
def vgg_centers(caffe: bool) -> dict[int, float]:
    with torch.device("meta"):
        return VGGEncoder("vgg11", classifier_channels=1, needs=("caffe",) if caffe else ()).centers


class SmallEncoder(Encoder):
    """A convolution per stage, no more, over the very grids of a real encoder: "vgg", "resnet", or "caffe", a VGG
    in the geometry of FCN's release. Smooth, so that no unit is ever dead."""

    def __init__(self, like: str) -> None:
        super().__init__()
        self.channels = {4: 4, 8: 32, 16: 6, 32: 6}
        self.centers = dict.fromkeys(self.channels, 0.0) if like == "resnet" else vgg_centers(like == "caffe")
        widths = (3, 4, *self.channels.values())
        self.layers = nn.ModuleList()
        for width, out in pairwise(widths):
            padding = 100 if like == "caffe" and width == 3 else 1
            convolution = nn.Conv2d(width, out, 3, stride=2 if like == "resnet" else 1, padding=padding)
            pool = nn.Identity() if like == "resnet" else nn.MaxPool2d(2, ceil_mode=like == "caffe")
            self.layers.append(nn.Sequential(convolution, nn.Tanh(), pool))
        if like == "caffe":
            self.layers[-1].append(nn.Conv2d(6, 6, 7))  # fc6

    @property
    def stages(self) -> list[list[nn.Module]]:
        return [[layer] for layer in self.layers]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        x, features = resize(images, self.scale), {}
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            features[2**number] = x
        return {stride: features[stride] for stride in self.channels}


def small_network(seed: int, name: str, like: str, classes: int, **options: Any) -> SegmentationModel:
    """A model of `conf/model` over a `SmallEncoder`, in eval mode, with narrow layers and random weights throughout."""
    torch.manual_seed(seed)
    if name.startswith("refinenet"):
        options = {"widths": {4: 4, 8: 4, 16: 5, 32: 6}} | options
    if like == "caffe":
        options["geometry"] = "caffe"
    encoder = mock.create_autospec(create_encoder, side_effect=lambda *_, **__: SmallEncoder(like))
    with mock.patch("segrefine.models.build.create_encoder", encoder):
        net = create_model(name, "vgg11" if like == "caffe" else "resnet50", classes, **options).eval()
    for parameter in net.decoder.parameters():
        nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1)
    return net


FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn8s_atonce")
REFINENETS = ("refinenet", "refinenet_lw", "refinenet_paper", "refinenet_improved", "refinenet_single")
REFINENETS += ("refinenet_2cascade", "refinenet_2scale")
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *((name, like, {"upsample": kind}) for name in FCNS for like in ("vgg", "resnet") for kind in UPSAMPLINGS),
    *((name, "caffe", {"upsample": kind}) for name in FCNS for kind in UPSAMPLINGS[:2]),
    *(("fcn8s", like, {"skips": skips}) for like in ("vgg", "resnet") for skips in ([16], [32, 8], [16, 4], [4])),
    ("fcn_dilated", "resnet", {"upsample": "resize"}),
    ("fcn_dilated", "resnet", {"upsample": "interpolate"}),
    *((name, like, {}) for name in REFINENETS for like in ("vgg", "resnet")),
    ("refinenet", "resnet", {"context": True}),
    ("refinenet", "vgg", {"cascade": [[32], [16]]}),
    ("refinenet", "resnet", {"cascade": [[16, 32], [8]]}),
]
"""Every decoder in every form: name, encoder and options for `small_network`."""
variants = st.sampled_from(VARIANTS)
