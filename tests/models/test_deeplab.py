"""DeepLab-LargeFOV against its layers written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.models.build import create_model
from segrefine.models.encoders import VGGS, create_encoder
from segrefine.models.network import SegmentationModel

pytestmark = pytest.mark.usefixtures("narrow")

Build = Callable[..., Any]


def by_hand(net: SegmentationModel, images: Tensor, stages: tuple[int, ...]) -> Tensor:
    """The release's layers (DeepLab-LargeFOV/test.prototxt), with as many convolutions a stage."""
    x, layers = images, iter([layer for layer in net.modules() if isinstance(layer, nn.Conv2d)])
    for count, stride, dilation in zip(stages, (2, 2, 2, 1, 1), (1, 1, 1, 1, 2), strict=True):
        for layer in [next(layers) for _ in range(count)]:
            x = F.conv2d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation).relu()
        x = F.max_pool2d(x, 3, stride, padding=1)
    x = F.avg_pool2d(x, 3, 1, padding=1)
    fc6, fc7, fc8 = layers
    x = F.conv2d(x, fc6.weight, fc6.bias, padding=12, dilation=12).relu()
    return F.conv2d(F.conv2d(x, fc7.weight, fc7.bias).relu(), fc8.weight, fc8.bias)


@pytest.mark.parametrize("size", [(97, 65), (32, 47), (105, 33)])
@pytest.mark.parametrize(("backbone", "stages"), [("vgg11", (1, 1, 2, 2, 2)), ("vgg16", (2, 2, 3, 3, 3))])
def test_scores_and_logits_are_those_of_the_releases_layers(
    backbone: str, stages: tuple[int, ...], size: tuple[int, int], cheap_model: Build
) -> None:
    net = cheap_model("deeplab_largefov", backbone)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        scores, expected = net(images, upsampled=False), by_hand(net, images, stages)
        torch.testing.assert_close(scores, expected)
        height, width = expected.shape[-2:]
        assert (height, width) == (-(-size[0] // 8), -(-size[1] // 8))
        zoomed = F.interpolate(expected, (8 * height - 7, 8 * width - 7), mode="bilinear", align_corners=True)
        logits = net(images)[..., : 8 * height - 7, : 8 * width - 7]  # the last cell is held beyond
        torch.testing.assert_close(logits, zoomed[..., : size[0], : size[1]])


@pytest.mark.parametrize("name", VGGS)
def test_weights_of_vgg_fit_under_their_own_names(name: str) -> None:
    with torch.device("meta"):
        plain, encoder = create_encoder(name), create_encoder(name, needs=("large_fov",))
    tensors = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    assert {key: tensor.shape for key, tensor in encoder.state_dict().items()} == tensors
    assert encoder.channels == {4: plain.channels[4], 8: plain.channels[32]}


def test_frozen_stages_are_vggs_and_dropout_is_in_training_alone() -> None:
    net = create_model("deeplab_largefov", "vgg11", 3, frozen_stages=5)
    assert not any(parameter.requires_grad for parameter in net.encoder.parameters())
    assert all(parameter.requires_grad for parameter in net.decoder.parameters())
    images = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        assert not torch.equal(net.train()(images), net(images))
        assert torch.equal(net.eval()(images), net(images))
