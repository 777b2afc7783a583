"""Networks that undo the encoder's pools, against torch's own unpooling and their layers written out."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from segrefine.models.build import create_model
from segrefine.models.decoders.unpooling import unpool
from segrefine.models.encoders import create_encoder
from segrefine.models.logits import Logits
from segrefine.models.network import SegmentationModel
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.export import FORMATS

pytestmark = pytest.mark.usefixtures("narrow")

Build = Callable[..., Any]
SIZES = [(33, 47), (75, 101)]
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg16_bn": (2, 2, 3, 3, 3)}


@pytest.mark.parametrize("size", [(2, 2), (7, 4), (9, 13)])
def test_values_come_back_to_where_the_pool_took_them_from(size: tuple[int, int]) -> None:
    whole = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pooled, indices = F.max_pool2d(whole, 2, return_indices=True)
    values = torch.randn_like(pooled, requires_grad=True)
    found, expected = unpool(values, indices, size), F.max_unpool2d(values, indices, 2, output_size=size)
    assert torch.equal(found, expected)
    weights = torch.randn(2, 3, *size, dtype=torch.float64)
    gradients = [torch.autograd.grad((each * weights).sum(), values)[0] for each in (found, expected)]
    assert torch.equal(*gradients)


def test_unpooling_is_deterministic() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        values = torch.randn(1, 2, 3, 3, requires_grad=True)
        unpool(values, F.max_pool2d(torch.randn(1, 2, 7, 7), 2, return_indices=True)[1], (7, 7)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones_like(values))


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_an_encoder_that_gives_indices_gives_the_same_maps(name: str, filled: Build) -> None:
    plain, encoder = (filled(create_encoder, name, needs=needs).eval() for needs in ((), ("indices",)))
    images = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        expected, features = plain(images), encoder(images)
    for stride, tensor in expected.items():
        assert torch.equal(features[stride], tensor)
    assert encoder.channels == {2: features[2].shape[1]} | plain.channels
    assert encoder.centers == {2: 0.5} | plain.centers
    assert tuple(encoder.depths.values()) == DEPTHS[name]
    for stride in (2, 4, 8, 16, 32):
        indices, size = features["pool", stride]
        finer = features[stride // 2].shape[-2:] if stride > 2 else (45, 70)
        assert (tuple(size), indices.shape) == (tuple(finer), features[stride].shape)
    for stride in (4, 8, 16, 32):  # the pool's input is hidden by convolutions; its output, put back, is in its place
        indices, size = features["pool", stride]
        assert torch.equal(F.max_pool2d(unpool(features[stride], indices, size), 2), features[stride])


def normed(x: Tensor, layers: Iterator[nn.Module]) -> Tensor:
    """The next convolution, batch norm where it follows, and ReLU, by torch's functions."""
    layer, norm, relu = next(layers), next(layers), None
    x = F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)
    if isinstance(norm, nn.BatchNorm2d):
        x, relu = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias), next(layers)
    assert isinstance(relu or norm, nn.ReLU)
    return x.relu()


def encoded(net: SegmentationModel, x: Tensor, depths: tuple[int, ...]) -> tuple[Tensor, list[Any]]:
    """The deepest map, and of every pool its indices and the size of its input."""
    layers, pools = iter(net.encoder.features), []
    for depth in depths:
        for _ in range(depth):
            x = normed(x, layers)
        assert isinstance(next(layers), nn.MaxPool2d)
        size = x.shape
        x, indices = F.max_pool2d(x, 2, return_indices=True)
        pools.append((indices, size))
    return x, pools


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)))


def norms_at_random(net: SegmentationModel) -> None:
    for norm in (part for part in net.decoder.modules() if isinstance(part, nn.BatchNorm2d)):
        for tensor in (norm.running_mean, norm.weight.data, norm.running_var, norm.bias.data):
            assert tensor is not None
            tensor.uniform_(0.5, 1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backbone", DEPTHS)
def test_segnet_is_the_encoder_and_its_mirror_image(backbone: str, size: tuple[int, int], cheap_model: Build) -> None:
    net, images = deepcopy(cheap_model("segnet", backbone)).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    norms_at_random(net)
    with torch.no_grad():
        x, pools = encoded(net, images, DEPTHS[backbone])
        layers = leaves(net.decoder.stages)
        for depth, (indices, whole) in zip(DEPTHS[backbone][::-1], pools[::-1], strict=True):
            x = F.max_unpool2d(x, indices, 2, output_size=whole[-2:])
            for _ in range(depth if whole[-2:] != size else depth - 1):
                x = normed(x, layers)
        assert next(layers, None) is None
        expected = F.conv2d(x, net.decoder.classifier.weight, net.decoder.classifier.bias, padding=1)
        torch.testing.assert_close(net(images), expected)
        torch.testing.assert_close(net(images, upsampled=False), expected)
        assert expected.std() > 1e-3


@pytest.mark.parametrize("size", [*SIZES, (224, 224)])
def test_the_deconvolution_network_is_its_layers_written_out(size: tuple[int, int], cheap_model: Build) -> None:
    """With torch's transposed convolutions, whose kernels are ours turned by half a turn, in and out exchanged."""
    net, images = deepcopy(cheap_model("deconvnet", "vgg16_bn")).double(), torch.randn(1, 3, *size, dtype=torch.float64)
    norms_at_random(net)
    with torch.no_grad():
        x, pools = encoded(net, images, DEPTHS["vgg16_bn"])
        fully_connected, back = leaves(net.decoder.bottom[:6]), leaves(net.decoder.bottom[6:])
        x = deconvolved(normed(normed(x, fully_connected), fully_connected), back)
        layers = leaves(net.decoder.stages)
        for depth, (indices, whole) in zip(DEPTHS["vgg16_bn"][::-1], pools[::-1], strict=True):
            x = F.max_unpool2d(x, indices, 2, output_size=whole[-2:])
            for _ in range(depth):
                x = deconvolved(x, layers)
        assert next(layers, None) is None
        scores = torch.einsum("kc,bchw->bkhw", net.decoder.classifier.weight[:, :, 0, 0], x)
        expected = scores + net.decoder.classifier.bias[:, None, None]
        torch.testing.assert_close(net(images), expected)
        assert expected.std() > 1e-6


def deconvolved(x: Tensor, layers: Iterator[nn.Module]) -> Tensor:
    """The next transposed convolution, batch norm and ReLU."""
    layer, norm, relu = next(layers), next(layers), next(layers)
    assert isinstance(relu, nn.ReLU)
    kernel = layer.weight.flip(-1, -2).transpose(0, 1)
    x = F.conv_transpose2d(x, kernel, layer.bias, padding=kernel.shape[-1] // 2)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


@pytest.mark.parametrize("band", [10**6, 1000])
def test_loss_classes_and_views_come_from_the_scores(
    band: int, cheap_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segrefine.models.logits.BAND", band)
    net, images, labels = cheap_model("segnet", "vgg11"), torch.randn(2, 3, 45, 67), torch.randint(3, (2, 45, 67))
    with torch.no_grad():
        logits = net(images)
        expected = F.cross_entropy(logits, labels)
        for loss_at in ("pixels", "scores"):
            found = Logits(net, images, loss_at)  # type: ignore[arg-type]
            assert found.banded == (band == 1000)
            torch.testing.assert_close(found.loss(labels), expected)
            assert torch.equal(found.classes(), logits.argmax(1).to(torch.uint8))
        both_ways = logits.softmax(1) + net(images.flip(-1)).flip(-1).softmax(1)
        torch.testing.assert_close(TestTimeAugmentation(net, flip=True)(images), both_ways / 2)


def test_frozen_stages_keep_their_weights_and_the_rest_learns() -> None:
    net = create_model("segnet", "vgg16_bn", 3, frozen_stages=2).train()
    F.cross_entropy(net(torch.randn(2, 3, 64, 47)), torch.randint(3, (2, 64, 47))).backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert {name for name in trained if name.startswith("encoder.features.")} == {
        name for name, _ in net.named_parameters() if name.startswith("encoder.") and int(name.split(".")[2]) >= 14
    }
    assert {name for name, _ in net.decoder.named_parameters(prefix="decoder")} <= trained


@pytest.mark.slow
def test_it_is_exported_for_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One convolution a stage: the time of tracing grows with each layer."""
    pytest.importorskip("onnxruntime")
    features = make_layers([4, "M", 4, "M", 6, "M", 6, "M", 8, "M"])
    monkeypatch.setattr(torchvision.models, "vgg11", lambda weights: SimpleNamespace(features=features))
    net = create_model("segnet", "vgg11", 3).eval()
    norms_at_random(net)
    exported = FORMATS["onnx"](net, {}, tmp_path / "net.onnx")
    for size in ((2, 3, 97, 80), (1, 3, 64, 131)):
        images = torch.rand(*size)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), net(net.preprocess(images)), rtol=1e-3, atol=1e-4)
