"""The published networks: the outputs and gradients of their own code, recorded by `published/record.py`, from the same
weights (`published/rule.py`), and torchvision's, which are here, directly.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from published.ours import published_tensors
from published.rule import SIZES, difference, digest, image, labels
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.decoders import RefineNetDecoder
from segrefine.models.encoders.base import MEAN, STD
from segrefine.models.encoders.vgg import CAFFE_MEAN
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import fill, load_weights
from segrefine.weights.export import FORMATS, FromImages, largest_difference
from segrefine.weights.published import FORMS

FCN, REFINENET, *_ = FORMS
CAFFE = {"geometry": "caffe"}
RECORDED = {
    **{name: (FCN, name, "vgg16", CAFFE) for name in ("fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce")},
    "refinenet_101": (REFINENET, "refinenet", "resnet101", {}),
    **{f"refinenet_lw_{depth}": (REFINENET, "refinenet_lw", f"resnet{depth}", {}) for depth in (50, 101, 152)},
}
WHOLE = bool(os.environ.get("SEGREFINE_WHOLE"))
COMPARED = list(RECORDED) if WHOLE else ["fcn8s", "refinenet_101", "refinenet_lw_50"]
"""The others are made of the same parts, and what is their own (crops, scales) has tests of its own."""

SINGLE = SIZES if WHOLE else SIZES[:1]
"""Sizes of the images in float32; the first size, which is odd, is compared in float64, too."""


def outputs(net: SegmentationModel, rgb: Tensor) -> Tensor:
    """What the published code gives: FCN's logits, RefineNet's scores before the last upsampling."""
    images = net.preprocess(rgb)
    return net.decoder(net.encoder(images)) if isinstance(net.decoder, RefineNetDecoder) else net(images)


def in_double(net: SegmentationModel) -> SegmentationModel:
    """The network in float64, the mean and deviation of its input to the last digit."""
    mean, std = MEAN, STD
    if net.std[0] < 0.1:
        mean, std = tuple(value / 255 for value in CAFFE_MEAN), (1 / 255,) * 3
    net.double()
    net.mean, net.std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    return net


@pytest.fixture(scope="module", params=COMPARED)
def recorded(request: pytest.FixtureRequest) -> tuple[str, SegmentationModel, dict[str, str], dict[str, np.ndarray]]:
    """A network with the rule's weights, its tensors' published names -> ours, and what its published code gave."""
    form, model, backbone, options = RECORDED[request.param]
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        net = create_model(model, backbone, 21, **options).eval()
    net.to_empty(device="cpu")
    net.mean.copy_(torch.tensor(MEAN).view(3, 1, 1)), net.std.copy_(torch.tensor(STD).view(3, 1, 1))
    fill(net, published_tensors(net), Path(f"{request.param}.pth"))
    with np.load(Path(__file__).parents[1] / "published" / f"{request.param}.npz") as file:
        expected = dict(file)
    return request.param, net, {theirs: name for name, theirs in form.tensor_names(net).items()}, expected


def test_parameters_outputs_and_gradients_are_those_of_the_published_code(recorded: Any) -> None:
    """`pytest -s` shows the differences, which docs/fidelity.md tells."""
    name, net, ours, expected = recorded
    assert set(ours) == set(expected["names"].tolist())
    assert sum(parameter.numel() for parameter in net.parameters()) == expected["parameters"]
    with torch.no_grad():
        single = {size: difference(digest(outputs(net, image(size).float())), expected[key(size)]) for size in SINGLE}

    in_double(net)
    rgb = image(SIZES[0]).requires_grad_()
    scores = outputs(net, rgb)
    double = difference(digest(scores), expected[key(SIZES[0])])
    loss = F.cross_entropy(scores, labels((scores.shape[-2], scores.shape[-1]), 21), ignore_index=255)
    inner = [theirs for theirs in ours if f"gradient {theirs}" in expected]
    assert len(inner) == 2
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(loss, [rgb, *(parameters[ours[theirs]] for theirs in inner)])
    gradients = {
        tensor: difference(digest(gradient), expected[f"gradient {tensor}"])
        for tensor, gradient in zip(("input", *inner), found, strict=True)
    }
    print(f"\n{name}: fp32 {max(single.values()):.1e}, fp64 {double:.1e}, gradients {gradients}")
    assert max(single.values()) < 1e-5, single
    assert double < 1e-10
    assert max(gradients.values()) < 1e-10, gradients


def key(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def test_numbers_of_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        fcn, refinenet = create_model("fcn8s", "vgg16", 21, **CAFFE), create_model("refinenet", "resnet101", 21)
    counts = [sum(parameter.numel() for parameter in net.parameters()) for net in (fcn, refinenet)]
    assert counts == [134_489_759, 118_052_437]


TORCHVISION = {"fcn": ("fcn_dilated", "torchvision"), "deeplabv3": ("deeplabv3", "torchvision_deeplabv3")}


@pytest.mark.parametrize("head", TORCHVISION)
@pytest.mark.parametrize(("backbone", "auxiliary"), [("resnet50", True), ("resnet101", False)][: 1 + WHOLE])
def test_torchvisions_networks_give_torchvisions_outputs(
    head: str, backbone: str, auxiliary: bool, tmp_path: Path, filled: Any
) -> None:
    """From a file of theirs, and, as one is exported, the other way round."""
    model, form = TORCHVISION[head]
    build = getattr(torchvision.models.segmentation, f"{head}_{backbone}")
    theirs = filled(build, weights=None, weights_backbone=None, num_classes=21, aux_loss=auxiliary).eval()
    torch.save(theirs.state_dict(), tmp_path / "fcn.pth")
    net = filled(create_model, model, backbone, 21).eval()
    net.mean, net.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    load_weights(net, tmp_path / "fcn.pth")
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def relative(size: tuple[int, int], dtype: torch.dtype) -> float:
        rgb = image(size).to(dtype)
        with torch.no_grad():
            expected, found = theirs(normalize(rgb))["out"], net(net.preprocess(rgb))
        return ((found - expected).abs().max() / expected.abs().max()).item()

    single = max(relative(size, torch.float32) for size in (SIZES[:2] if WHOLE else [(64, 96)]))
    assert single < 1e-5
    exported = FORMATS[form](net, {"backbone": {"name": backbone}}, tmp_path / "exported.pth")
    assert largest_difference(FromImages(net), exported) < 1e-5
    tensors = theirs.state_dict()
    for name, tensor in torch.load(tmp_path / "exported.pth", weights_only=True).items():
        assert torch.equal(tensor, tensors[name]), name

    theirs.double(), in_double(net)
    double = relative(SIZES[0] if WHOLE else (45, 61), torch.float64)
    count = sum(parameter.numel() for parameter in net.parameters())
    print(f"\n{head}_{backbone}: {count} parameters, fp32 {single:.1e}, fp64 {double:.1e}")
    assert double < 1e-10


@pytest.mark.parametrize("build", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvisions_networks_over_mobilenet_are_refused(build: str, tmp_path: Path) -> None:
    theirs = getattr(torchvision.models.segmentation, build)(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    with torch.device("meta"):
        net = create_model("deeplabv3", "resnet50", 21)
    with pytest.raises(UserError, match=r"over MobileNetV3\. No encoder here .*model=deeplabv3"):
        load_weights(net, tmp_path / "net.pth")


@pytest.mark.parametrize(("file", "model"), [("fcn", "deeplabv3"), ("deeplabv3", "fcn_dilated")])
def test_the_one_head_of_torchvisions_is_not_taken_for_the_other(file: str, model: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = create_model(model, "resnet50", 21)
        theirs = getattr(torchvision.models.segmentation, f"{file}_resnet50")(weights=None, weights_backbone=None)
    with pytest.raises(
        UserError, match=f"Weights of torchvision's {file}_resnet50 .*are for model={TORCHVISION[file][0]}"
    ):
        fill(net, dict(theirs.state_dict()), tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "crops", "last"),
    [("fcn32s", {}, 19), ("fcn16s", {16: 5}, 27), ("fcn8s", {16: 5, 8: 9}, 31), ("fcn8s_atonce", {16: 5, 8: 9}, 31)],
)
def test_crops_follow_from_the_geometry(name: str, crops: dict[int, int], last: int) -> None:
    with torch.device("meta"):
        decoder = create_model(name, "vgg16", 21, **CAFFE, classifier_channels=16).decoder
    assert (decoder.crops, decoder.to_pixels.offset) == (crops, last)


@pytest.mark.parametrize("name", ["fcn32s", "fcn8s", "fcn4s"])
def test_caffe_geometry_takes_any_size(name: str) -> None:
    with FakeTensorMode():
        net = create_model(name, "vgg11", 3, **CAFFE, classifier_channels=16)
        for height in range(32, 64):  # with the widths, every remainder of a division by 32
            size = (height, 131 - height)
            assert net(torch.empty(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "backbone", "options", "words"),
    [
        ("fcn8s", "resnet18", {}, "backbone=resnet18: model.geometry=caffe is VGG's"),
        ("fcn8s", "vgg16", {"upsample": "interpolate"}, "model.upsample=interpolate needs model.geometry=same"),
        ("fcn8s", "vgg16", {"classifier_channels": 0}, "backbone.classifier_channels must be 1 or more"),
    ],
)
def test_geometries_that_cannot_be_are_refused(name: str, backbone: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught, torch.device("meta"):
        create_model(name, backbone, 21, **{"geometry": "caffe"} | options)
    assert words in str(caught.value)
