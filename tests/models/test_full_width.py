"""Networks at the width that users train; those of test_network.py are narrow."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segrefine.models.build import create_model
from segrefine.models.cost import count_parameters


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fcn8s", "resnet18"),
        pytest.param("refinenet", "resnet18", marks=pytest.mark.slow),
        ("refinenet_lw", "resnet50"),
    ],
)
def test_networks_of_full_width_learn_in_every_parameter(name: str, backbone: str) -> None:
    net = create_model(name, backbone, num_classes=5).train()
    images, labels = torch.randn(2, 3, 33, 47), torch.randint(5, (2, 33, 47))
    F.cross_entropy(net(images), labels).backward()
    torch.optim.SGD(net.parameters(), lr=1.0).step()  # FCN's score layers start at zero and pass nothing on before this
    net.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    assert [name for name, parameter in net.named_parameters() if not parameter.grad.any()] == []
    assert [name for name, parameter in net.named_parameters() if not parameter.grad.isfinite().all()] == []


def test_fcn_over_a_vgg_of_full_width_runs(filled: Callable[..., Any]) -> None:
    net = filled(create_model, "fcn32s", "vgg11", 4).eval()
    with torch.no_grad():
        features = net.encoder(torch.randn(1, 3, 65, 33))
    assert {stride: tuple(tensor.shape[1:]) for stride, tensor in features.items()} == {
        4: (128, 16, 8),
        8: (256, 8, 4),
        16: (512, 4, 2),
        32: (4096, 2, 1),
    }
    assert net.upsample(net.decoder(features), (65, 33)).shape == (1, 4, 65, 33)


VGG16 = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
CONVOLUTIONS = sum(9 * a * b + b for a, b in pairwise(VGG16))
NORMS = 2 * sum(VGG16[1:])


def parameters(name: str, backbone: str, num_classes: int) -> int:
    with torch.device("meta"):
        return count_parameters(create_model(name, backbone, num_classes))


def test_deeplab_largefov_over_vgg16_has_the_papers_number_of_parameters() -> None:
    """20.5 M (Chen et al., ICLR 2015, Table 2)."""
    fully_connected = 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 21 + 21
    assert parameters("deeplab_largefov", "vgg16", 21) == CONVOLUTIONS + fully_connected == 20_505_429


@pytest.mark.parametrize(("backbone", "norms"), [("vgg16", 0), ("vgg16_bn", NORMS)])
def test_segnet_has_the_parameters_of_the_release(backbone: str, norms: int) -> None:
    """The release's layers, for CamVid's 11 classes: 29.4 M."""
    mirrored = sum(9 * a * b + b + 2 * b for a, b in pairwise(VGG16[:0:-1])) + 9 * 64 * 11 + 11
    found = parameters("segnet", backbone, 11)
    assert (found, round(found / 1e6, 1)) == (CONVOLUTIONS + norms + mirrored, 29.4)


@pytest.mark.parametrize(("name", "width", "millions"), [("deconvnet", 4096, 252), ("deconvnet_slim", 512, 55)])
def test_the_deconvolution_network_has_the_parameters_of_the_release(name: str, width: int, millions: int) -> None:
    """The release's layers, for VOC's 21 classes."""
    mirrored = sum(9 * a * b + b + 2 * b for a, b in pairwise((*VGG16[:0:-1], 64))) + 64 * 21 + 21
    fully_connected = 49 * 512 * width + width + width**2 + width + 49 * width * 512 + 512 + 2 * (2 * width + 512)
    found = parameters(name, "vgg16_bn", 21)
    assert (found, round(found / 1e6)) == (CONVOLUTIONS + NORMS + fully_connected + mirrored, millions)
