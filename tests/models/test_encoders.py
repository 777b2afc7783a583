"""Encoders against torchvision's own networks, and the positions they declare against where their cells look."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from narrow import NARROW
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.encoders import BACKBONES, RESNETS, VGGS, create_encoder
from segrefine.models.encoders.base import scaled_size
from segrefine.models.encoders.multiscale import MultiScaleEncoder
from segrefine.models.encoders.resnet import ResNetEncoder
from segrefine.models.encoders.vgg import VGGEncoder

Build = Callable[..., nn.Module]
DILATED = ("resnet50", "resnet101", "resnet152")


def without_classifier(name: str) -> nn.Module:
    """torchvision's network less its fully connected layers."""
    net = torchvision.models.get_model(name, weights=None)
    net.classifier = net.fc = nn.Identity()
    return net


def outputs_of(modules: list[nn.Module], net: nn.Module, images: Tensor) -> list[Tensor]:
    """What some modules of `net` put out for `images`."""
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda *call: outputs.append(call[2])) for module in modules]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return outputs


def features_of(encoder: nn.Module, images: Tensor) -> dict[int, Tensor]:
    with torch.no_grad():
        return encoder.eval()(images)


def slow_but(names: Sequence[str], *kept: str) -> list[Any]:
    """The names as parameters, all but the `kept` for `pytest -m slow`: large networks made of the same parts."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


def check_features(encoder: nn.Module, images: Tensor, expected: dict[int, Tensor]) -> None:
    features = features_of(encoder, images)
    assert list(features) == list(expected) == list(encoder.channels)
    for stride, tensor in expected.items():
        assert tensor.abs().max() > 1e-6
        torch.testing.assert_close(features[stride], tensor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", slow_but(VGGS, "vgg11", "vgg16_bn"))
def test_vgg_features_are_torchvisions_after_each_pool(name: str, filled: Build) -> None:
    reference, encoder = filled(without_classifier, name).eval(), filled(VGGEncoder, name)
    encoder.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 47, 70)
    pools = [layer for layer in reference.features if isinstance(layer, nn.MaxPool2d)]
    outputs = outputs_of(pools, reference.features, images)
    check_features(encoder, images, dict(zip((4, 8, 16, 32), outputs[1:], strict=True)))


@pytest.mark.parametrize("name", slow_but(RESNETS, "resnet18", "resnet50"))
def test_resnet_features_are_torchvisions_after_each_stage(name: str, filled: Build) -> None:
    reference, encoder = filled(without_classifier, name).eval(), filled(ResNetEncoder, name)
    encoder.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 47, 70)
    outputs = outputs_of([getattr(reference, f"layer{number}") for number in (1, 2, 3, 4)], reference, images)
    check_features(encoder, images, dict(zip((4, 8, 16, 32), outputs, strict=True)))


@pytest.mark.parametrize("name", slow_but(["resnet50", "resnet101"], "resnet50"))
def test_dilated_features_are_those_of_torchvisions_fcn(name: str, filled: Build) -> None:
    segmentation = getattr(torchvision.models.segmentation, f"fcn_{name}")
    reference = filled(segmentation, weights=None, weights_backbone=None).backbone.eval()
    encoder = filled(ResNetEncoder, name, needs=("dilation",))
    encoder.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 47, 70)
    first, last = outputs_of([reference.layer1, reference.layer4], reference, images)
    check_features(encoder, images, {4: first, 8: last})
    assert last.shape == (1, 2048, 6, 9)


def test_batch_norm_follows_torchvision_in_training_mode(filled: Build) -> None:
    reference, encoder = filled(without_classifier, "resnet18").train(), filled(ResNetEncoder, "resnet18").train()
    encoder.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    expected = outputs_of([reference.layer4], reference, images)[0]
    torch.testing.assert_close(encoder(images)[32], expected, rtol=1e-6, atol=0)
    buffers = dict(reference.named_buffers())
    for name, buffer in encoder.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-6, atol=0)


NEEDS = {(): [4, 8, 16, 32], ("stride2",): [2, 4, 8, 16, 32], ("stride16",): [4, 8, 16]}


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        *((name, ()) for name in BACKBONES),
        *((name, needs) for needs in NEEDS if needs for name in ("vgg11", "vgg16_bn", "resnet18", "resnet50", "timm")),
    ],
)
def test_sizes_and_channels_are_as_declared(name: str, needs: tuple[str, ...]) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name, needs=needs, timm_name="test_resnet").eval()
        whole = create_encoder(name, needs=(*needs, "multiple_of_32"), timm_name="test_resnet").eval()
    rounded = (lambda side, stride: side // stride) if name in VGGS else (lambda side, stride: -(-side // stride))
    assert (whole.channels, whole.centers) == (encoder.channels, encoder.centers)
    for size in ((32, 32), (63, 97)):
        images = torch.empty(1, 3, *size, device="meta")
        features, wider = encoder(images), whole(images)
        assert list(features) == list(encoder.centers) == NEEDS[needs]
        for stride, tensor in features.items():
            padded = tuple(-(-side // 32) * 32 // stride for side in size)
            cells = padded if name == "timm" else tuple(rounded(side, stride) for side in size)
            assert tensor.shape == (1, encoder.channels[stride], *cells)
            assert wider[stride].shape[2:] == padded


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_sides_are_lengthened_by_their_last_pixels(name: str, filled: Build) -> None:
    plain, whole = (filled(create_encoder, name, needs=needs).eval() for needs in ((), ("multiple_of_32",)))
    images = torch.randn(1, 3, 45, 64)
    with torch.no_grad():
        expected = plain(torch.cat([images, images[:, :, -1:].expand(-1, -1, 19, -1)], 2))
        for stride, tensor in whole(images).items():
            assert torch.equal(tensor, expected[stride])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_at_stride_16_is_torchvisions_with_its_last_stage_dilated(name: str, filled: Build) -> None:
    """Every other cell is the plain network's."""
    plain, dilated = (filled(ResNetEncoder, name, needs=needs).double().eval() for needs in ((), ("stride16",)))
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        expected, found = plain(images), dilated(images)
    torch.testing.assert_close(found[16][..., ::2, ::2], expected[32], rtol=1e-9, atol=1e-9)
    assert torch.equal(found[8], expected[8])


def constant(encoder: nn.Module) -> nn.Module:
    """Everything a cell sees in its row raises it: weights 1 / fan-in, biases 1, norms that keep this; in float64.

    Kernels are one row high, since what the upper and lower border cuts off would weaken some paths more than others.
    """
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.LayerNorm):
            module.forward = lambda x: x
    for parameter in encoder.parameters():
        rows = parameter.shape[2] if parameter.ndim == 4 else 1
        nn.init.constant_(parameter, rows / parameter[0].numel())
        if rows > 1:
            parameter.data[:, :, [row for row in range(rows) if row != rows // 2]] = 0
    return encoder.double().eval()


def averages(x: Tensor, size: int, stride: int, padding: int, *others: object, **options: object) -> Tensor:
    return F.avg_pool2d(x, size, stride, padding, count_include_pad=False)


MEASURED = ("resnet10t", "resnetblur18", "test_convnext", "tf_mobilenetv3_small_minimal_100")
"""Networks of timm with two paths, blurred strides, patches, and padding by size. None has gates or attention."""

LOOKS = [
    *[(name, {}) for name in ("vgg11", "resnet18", "resnet50")],
    *[("vgg11", {"needs": ("classifier",), "classifier_channels": 4}), ("vgg11", {"needs": ("large_fov",)})],
    *[(name, {"needs": (need,)}) for name in ("vgg11", "resnet18") for need in ("stride2", "stride16")],
    *[("timm", {"timm_name": name, "needs": ("stride2",)}) for name in MEASURED],
    *[("timm", {"timm_name": name, "needs": ("stride16",)}) for name in ("test_convnext", "resnetblur18")],
    ("resnet50", {"needs": ("dilation",)}),
]


@pytest.mark.parametrize(("name", "options"), LOOKS)
def test_cell_j_looks_at_pixel_stride_times_j_plus_center(
    name: str, options: dict[str, object], filled: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centroid of a cell's gradient; pools average here, since a maximum picks one of equal pixels. The layers are
    narrow, which is nothing to where they look."""
    monkeypatch.setattr(F, "max_pool2d", averages)
    for network, build in NARROW.items():
        monkeypatch.setattr(torchvision.models, network, build)
    known = name == "timm"  # which has buffers that no file holds, so that it is built with its memory
    encoder = constant(create_encoder(name, **options) if known else filled(create_encoder, name, **options))
    width = 1920 if options.get("timm_name") == "test_convnext" else 960 if known else 640
    images = torch.ones(1, 3, 32, width, dtype=torch.float64, requires_grad=True)
    for stride, tensor in encoder(images).items():
        cell = width // 2 // stride
        (gradient,) = torch.autograd.grad(tensor[:, :, :, cell].sum(), images, retain_graph=True)
        profile = gradient.sum((0, 1, 2))
        assert profile[0] == profile[-1] == 0 < profile[width // 2]  # all that the cell sees lies inside the image
        centroid = (profile * torch.arange(width)).sum() / profile.sum()
        # Two paths differ in how many norms they go through, each of which takes 5e-6 of what it is given.
        assert centroid.item() == pytest.approx(stride * cell + encoder.centers[stride], abs=1e-3 if known else 1e-8)


def test_centers_are_between_pixels_after_pools_and_on_them_after_odd_kernels() -> None:
    with torch.device("meta"):
        assert create_encoder("vgg11").centers == {4: 1.5, 8: 3.5, 16: 7.5, 32: 15.5}
        assert create_encoder("resnet18").centers == {4: 0, 8: 0, 16: 0, 32: 0}
        assert create_encoder("resnet50", needs=("dilation",)).centers == {4: 0, 8: 0}
        assert create_encoder("vgg11", needs=("large_fov",)).centers == {4: 0, 8: 0}


def test_classifier_is_there_only_where_asked_for_and_has_the_published_width() -> None:
    with torch.device("meta"):
        asked, unasked = create_encoder("vgg16", needs=("classifier",)), create_encoder("vgg16")
        absent = create_encoder("vgg16", needs=("classifier",), classifier_channels=0)
    assert [tuple(layer.weight.shape) for layer in asked.classifier if isinstance(layer, nn.Conv2d)] == [
        (4096, 512, 7, 7),
        (4096, 4096, 1, 1),
    ]
    assert asked.channels[32] == 4096
    for encoder in (unasked, absent):
        assert encoder.channels[32] == 512
        assert list(encoder.classifier.parameters()) == []


def test_classifier_drops_out_in_training_alone(filled: Build) -> None:
    encoder = filled(create_encoder, "vgg11", needs=("classifier",), classifier_channels=64)
    images = torch.randn(1, 3, 64, 64)
    encoder.train()
    assert not torch.equal(encoder(images)[32], encoder(images)[32])
    assert torch.equal(encoder(images)[16], encoder(images)[16])
    encoder.eval()
    assert torch.equal(encoder(images)[32], encoder(images)[32])


@pytest.mark.parametrize(
    ("name", "needs", "message"),
    [
        ("timm", ("dilation",), "timm cannot be dilated here. Use a ResNet of 50 layers or more"),
        ("timm", ("classifier", "caffe"), "timm: model.geometry=caffe is VGG's"),
        ("timm", ("indices",), "timm: unpooling takes the indices of five pools, as a VGG has"),
        ("resnet51", (), "Unknown backbone 'resnet51'. Did you mean 'resnet50'"),
        ("VGG-16", (), "Known: resnet101, "),
        ("vgg16", ("dilation",), "vgg16: VGG cannot be dilated"),
        ("resnet18", ("dilation",), "resnet18 cannot be dilated: it takes resnet50, resnet101 or resnet152"),
        ("resnet34", ("dilation",), "resnet34 cannot be dilated"),
        ("resnet50", ("large_fov",), "resnet50: DeepLab-LargeFOV is made for VGG. Use vgg16, or model=fcn_dilated"),
        ("resnet18", ("indices",), "resnet18: unpooling takes the indices of five pools, as a VGG has. Use vgg16_bn"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(name: str, needs: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        create_encoder(name, needs=needs)
    assert message in str(caught.value)


STAGES = {
    "vgg11_bn": [["features.0", "features.1"], ["features.4", "features.5"], [f"features.{n}" for n in (8, 9, 11, 12)]],
    "vgg16": [["features.0", "features.2"], ["features.5", "features.7"], [f"features.{n}" for n in (10, 12, 14)]],
    "resnet18": [["conv1", "bn1"], ["layer1"], ["layer2"]],
    "resnet50": [["conv1", "bn1"], ["layer1"], ["layer2"]],
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_frozen_stages_are_the_first_ones_whole(name: str, count: int) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name, frozen_stages=count)
    frozen = {key for key, parameter in encoder.named_parameters() if not parameter.requires_grad}
    expected = tuple(f"{layer}." for stage in STAGES[name][:count] for layer in stage)
    assert frozen == {key for key, _ in encoder.named_parameters() if key.startswith(expected)}


def test_five_frozen_stages_leave_the_classifier_to_train() -> None:
    with torch.device("meta"):
        encoder = create_encoder("vgg16", needs=("classifier",), frozen_stages=5)
        resnet = create_encoder("resnet18", frozen_stages=5)
    trained = [key for key, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert trained == [f"classifier.fc{layer}.{kind}" for layer in (6, 7) for kind in ("weight", "bias")]
    assert not any(parameter.requires_grad for parameter in resnet.parameters())


@pytest.mark.parametrize("size", [(40, 61), (75, 100)])
def test_two_scales_are_two_encoders_on_resized_images(size: tuple[int, int], filled: Build) -> None:
    small, large = (filled(ResNetEncoder, "resnet18").double().eval() for _ in range(2))
    nn.init.normal_(large.conv1.weight)
    encoder = MultiScaleEncoder([small, large], [0.6, 1.2]).eval()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    features = features_of(encoder, images)
    assert list(features) == [(stride, scale) for scale in (1.2, 0.6) for stride in (4, 8, 16, 32)]
    assert (encoder.scale, encoder.channels[32, 0.6], encoder.centers[4, 1.2]) == (1.2, 512, 0.0)
    for scale, part in ((0.6, small), (1.2, large)):
        new = [max(32, round(side * scale)) for side in size]
        resized = torchvision.transforms.functional.resize(images, new, antialias=True)
        for stride, tensor in features_of(part, resized).items():
            torch.testing.assert_close(features[stride, scale], tensor, rtol=1e-9, atol=1e-9)


def test_scaled_sizes_are_rounded_and_at_least_32() -> None:
    assert scaled_size((33, 100), 1.2) == (40, 120)
    assert scaled_size((33, 101), 0.6) == (32, 61)
    assert scaled_size((47, 33), 1.0) == (47, 33)


@pytest.mark.parametrize("scale", [0.6, 1.25])
def test_scaled_sizes_of_an_exported_network_are_rounded_alike(scale: float) -> None:
    """Halves are rounded up."""

    class Scaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_zeros(scaled_size(images.shape[-2:], scale))

    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(Scaled(), (torch.zeros(1, 3, 97, 130),), dynamic_shapes=(free,)).module()
    for side in range(66, 130):
        size = side, 2 * side + 1
        assert tuple(exported(torch.empty(1, 3, *size)).shape) == scaled_size(size, scale), size
        assert scaled_size(size, scale) == tuple(math.floor(length * scale + 0.5) for length in size)
