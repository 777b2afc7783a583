"""FCN's decoders against the papers' numbers, a plain skip fusion, and torchvision's head."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.decoders import DilatedFCNDecoder, FCNDecoder
from segrefine.models.encoders import create_encoder
from segrefine.models.network import SegmentationModel

Build = Callable[..., Any]
CHANNELS = {4: 3, 8: 4, 16: 5, 32: 6}
CENTERS = {"vgg": {stride: (stride - 1) / 2 for stride in CHANNELS}, "resnet": dict.fromkeys(CHANNELS, 0.0)}
KINDS = ("learned", "fixed", "interpolate")


def features(geometry: str, size: tuple[int, int] = (75, 109)) -> dict[int, Tensor]:
    """Random float64 maps of an image of `size`: VGG's rounded down, ResNet's up."""
    up = geometry == "resnet"
    shapes = {stride: [-(-side // stride) if up else side // stride for side in size] for stride in CHANNELS}
    return {stride: torch.randn(2, count, *shapes[stride]).double() for stride, count in CHANNELS.items()}


def decoder(geometry: str, **options: Any) -> FCNDecoder:
    """For 3 classes, its score layers at random."""
    default = {"skips": (32, 16, 8), "skip_scales": {}, "upsample": "learned", "geometry": "same"}
    built = FCNDecoder(CHANNELS, CENTERS[geometry], 3, FCNDecoder.Options(**default | options)).double()
    for parameter in built.score.parameters():
        nn.init.normal_(parameter)
    return built


def tents(positions: Tensor, cells: int) -> Tensor:
    """(positions, cells) weights of linear interpolation, the outermost cells held."""
    return (1 - (positions.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def spread(scores: Tensor, stride: int, center: float, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling as a product with two matrices: pixel p reads position (p - center) / stride."""
    rows, columns = (
        tents((torch.arange(side).double() - center) / stride, cells)
        for side, cells in zip(size, scores.shape[-2:], strict=True)
    )
    return rows @ scores @ columns.T


def fused_by_hand(
    net: FCNDecoder, maps: dict[int, Tensor], strides: Sequence[int], geometry: str, scales: dict[int, float]
) -> Tensor:
    """Score, upsample twofold, add, from coarse to fine."""
    half = 0.5 if geometry == "vgg" else 0.0  # a coarse cell lies between two finer ones, or on one
    total = torch.zeros(())
    for stride in strides:
        layer = net.score[str(stride)]
        scores = torch.einsum("kc,bchw->bkhw", layer.weight[:, :, 0, 0], scales.get(stride, 1) * maps[stride])
        scores = scores + layer.bias[:, None, None]
        total = scores + (spread(total, 2, half, scores.shape[-2:]) if total.ndim else 0)
    return total


@pytest.mark.parametrize("geometry", CENTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strides", [(32,), (32, 16), (32, 16, 8), (32, 16, 8, 4)])
def test_skips_are_fused_from_coarse_to_fine(geometry: str, kind: str, strides: tuple[int, ...]) -> None:
    net, maps = decoder(geometry, skips=strides, upsample=kind), features(geometry)
    expected = fused_by_hand(net, maps, strides, geometry, {})
    torch.testing.assert_close(net(maps), expected, rtol=1e-9, atol=1e-9)
    center = CENTERS[geometry][strides[-1]]
    pixels = net.to_pixels(net(maps), (75, 109))
    torch.testing.assert_close(pixels, spread(expected, strides[-1], center, (75, 109)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("geometry", CENTERS)
def test_skips_may_jump_a_stride_and_come_in_any_order(geometry: str) -> None:
    net, maps = decoder(geometry, skips=(8, 32)), features(geometry)
    assert set(net.score) == {"32", "8"}
    coarse, fine = (net.score[str(stride)](maps[stride]) for stride in (32, 8))
    center = (CENTERS[geometry][32] - CENTERS[geometry][8]) / 8
    expected = fine + spread(coarse, 4, center, fine.shape[-2:])
    torch.testing.assert_close(net(maps), expected, rtol=1e-9, atol=1e-9)


def test_at_once_scales_maps_before_they_are_scored() -> None:
    """0.01 on pool4 and 0.0001 on pool3; the bias is not scaled (release, voc-fcn8s-atonce/net.py)."""
    with torch.device("meta"):
        scales = create_model("fcn8s_atonce").decoder.skip_scales
    assert scales == {16: 0.01, 8: 0.0001}
    net, maps = decoder("vgg", skip_scales=scales), features("vgg")
    expected = fused_by_hand(net, maps, (32, 16, 8), "vgg", {32: 1.0, 16: 1e-2, 8: 1e-4})
    torch.testing.assert_close(net(maps), expected, rtol=1e-9, atol=1e-12)
    unscaled = fused_by_hand(net, maps, (32, 16, 8), "vgg", {})
    assert (net(maps) - unscaled).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "upsampling"), [("fcn8s", 2 * 4**2 + 16**2), ("fcn16s", 4**2 + 32**2), ("fcn32s", 64**2)]
)
def test_numbers_of_parameters_over_vgg16_are_the_papers(name: str, upsampling: int) -> None:
    convolutions = sum(9 * a * b + b for a, b in pairwise(VGG16))
    classifier = 7 * 7 * 512 * 4096 + 4096 + 4096**2 + 4096
    widths = {"fcn8s": (4096, 512, 256), "fcn16s": (4096, 512), "fcn32s": (4096,)}[name]
    expected = convolutions + classifier + 21 * sum(width + 1 for width in widths) + 21**2 * upsampling
    with torch.device("meta"):
        net = create_model(name, "vgg16", 21)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


VGG16 = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def test_fcn8s_over_vgg16_has_134_489_759_parameters() -> None:
    with torch.device("meta"):
        net = create_model("fcn8s", "vgg16", 21)
    assert sum(parameter.numel() for parameter in net.parameters()) == 134_489_759


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn8s_atonce"])
def test_new_network_scores_zero_everywhere_and_its_score_layers_learn(name: str) -> None:
    net = create_model(name, "resnet18", 4)
    logits = net(torch.randn(2, 3, 41, 50))
    assert torch.equal(logits, torch.zeros(2, 4, 41, 50))
    F.cross_entropy(logits, torch.ones(2, 41, 50, dtype=torch.long)).backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in net.decoder.score.values())


@pytest.mark.parametrize(("kind", "trained", "stored"), [("learned", 3, 3), ("fixed", 0, 3), ("interpolate", 0, 0)])
def test_upsampling_kinds_differ_in_what_is_trained(kind: str, trained: int, stored: int) -> None:
    with torch.device("meta"):
        net = create_model("fcn8s", upsample=kind)
    kernels = [parameter for name, parameter in net.decoder.named_parameters() if not name.startswith("score.")]
    assert (sum(kernel.requires_grad for kernel in kernels), len(kernels)) == (trained, stored)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skips": [64]}, "model.skips=[64] must be different strides of the encoder's maps, which are [4, 8, 16, 32]"),
        ({"skips": [32, 2]}, "model.skips=[32, 2] must be"),
        ({"skips": []}, "model.skips=[] must be"),
        ({"skips": [32, 32, 16]}, "model.skips=[32, 32, 16] must be different strides"),
        ({"skips": [32], "skip_scales": {16: 0.1}}, "model.skip_scales has 16, which is not in model.skips=[32]"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        decoder("vgg", **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["fcn8s", "fcn32s"])
@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_shifting_the_image_by_32_pixels_shifts_the_scores_by_32(name: str, backbone: str, cheap_model: Build) -> None:
    net = deepcopy(cheap_model(name, backbone)).double()
    images = torch.randn(1, 3, 33, 1024, dtype=torch.float64)
    with torch.no_grad():
        whole, shifted = net(images)[..., 32:], net(images[..., 32:])
    middle = (..., slice(320, 640))  # farther from either end than the network sees
    assert whole[middle].std() > 1e-3
    torch.testing.assert_close(shifted[middle], whole[middle], rtol=0, atol=1e-10)
    assert (shifted - whole).abs().max() > 1e-6  # not so at the left end, which has another neighbor


def test_dilated_network_is_torchvisions_before_upsampling(filled: Build) -> None:
    reference = filled(torchvision.models.segmentation.fcn_resnet50, weights=None, weights_backbone=None).eval()
    encoder = filled(create_encoder, "resnet50", needs=("dilation",))
    shapes = encoder.channels, encoder.centers
    head = DilatedFCNDecoder(*shapes, 21, DilatedFCNDecoder.Options(upsample="interpolate"))
    net = SegmentationModel(encoder, head).eval()
    encoder.load_state_dict(reference.backbone.state_dict())
    net.decoder.head.load_state_dict(reference.classifier.state_dict())
    images = torch.randn(1, 3, 49, 65)
    with torch.no_grad():
        expected = reference.classifier(reference.backbone(images)["out"])
        logits = net(images)
    torch.testing.assert_close(net.decoder(net.encoder(images)), expected)
    torch.testing.assert_close(logits[..., ::8, ::8], expected)  # cell j lies on pixel 8 j
