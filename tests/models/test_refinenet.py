"""RefineNet's blocks and decoders against plain lines with the same weights, and against the papers' structure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.decoders import RefineNetDecoder
from segrefine.models.decoders.refinenet import (
    ChainedResidualPooling,
    MultiResolutionFusion,
    RefineNetBlock,
    RefineNetOptions,
    ResidualConvUnit,
)
from segrefine.models.network import SegmentationModel

Build = Callable[..., Any]
CHANNELS, WIDTHS = {4: 3, 8: 4, 16: 5, 32: 6}, {4: 4, 8: 4, 16: 5, 32: 7}
VARIANTS = {
    "refinenet": [[32], [16], [8], [4]],
    "refinenet_single": [[32, 16, 8, 4]],
    "refinenet_2cascade": [[32, 16], [8, 4]],
}


def maps(size: tuple[int, int] = (45, 70)) -> dict[int, Tensor]:
    """A ResNet's features at random, of an image of `size`, in float64."""
    shapes = {stride: [-(-side // stride) for side in size] for stride in CHANNELS}
    return {stride: torch.randn(2, count, *shapes[stride]).double() for stride, count in CHANNELS.items()}


def options_of(**options: Any) -> RefineNetOptions:
    """Those of RefineNet's config file, with changes."""
    given = read_group("model", "refinenet") | options
    own = {field.name for field in fields(RefineNetOptions)}
    return RefineNetOptions(**{key: value for key, value in given.items() if key in own})


def decoder(**options: Any) -> RefineNetDecoder:
    """For 3 classes, its weights such that a signal keeps its strength from layer to layer."""
    given = options_of(**{"widths": WIDTHS} | options)
    net = RefineNetDecoder(CHANNELS, dict.fromkeys(CHANNELS, 0.0), 3, given).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1)
    return net


def stretched(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corner cells on corner pixels, as a product with two matrices."""

    def tents(side: int, cells: int) -> Tensor:
        positions = torch.linspace(0, cells - 1, side, dtype=torch.float64)
        return (1 - (positions[:, None] - torch.arange(cells)).abs()).clamp(min=0)

    return tents(size[0], x.shape[-2]) @ x @ tents(size[1], x.shape[-1]).T


class ByHand:
    """The network in plain lines over the decoder's tensors `w`."""

    def __init__(
        self, module: nn.Module, conv_first: bool = False, residual: bool = True, chained: bool = True
    ) -> None:
        self.w, self.conv_first, self.residual, self.chained = module.state_dict(), conv_first, residual, chained

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight = self.w[f"{name}.weight"]
        y = F.conv2d(x, weight, self.w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)
        norm = re.sub(r"conv(s?)(\.?\d+)$", r"norm\1\2", name) if "conv" in name else f"{name[:-1]}1"
        if f"{norm}.running_var" not in self.w:
            return y
        mean, variance, gain, shift = (
            self.w[f"{norm}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (variance + 1e-5).sqrt() * gain + shift

    def count(self, prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in self.w if name.startswith(prefix)})

    def unit(self, x: Tensor, name: str) -> Tensor:
        y = self.conv(x.relu(), f"{name}.conv1").relu()
        return self.conv(y, f"{name}.conv2") + x * self.residual

    def pool(self, x: Tensor, name: str) -> Tensor:
        total = link = x.relu()
        for number in range(self.count(f"{name}.convs.")):
            link = link if self.conv_first else F.max_pool2d(link, 5, 1, 2)
            link = self.conv(link, f"{name}.convs.{number}")
            link = F.max_pool2d(link, 5, 1, 2) if self.conv_first else link
            total = total * self.chained + link
        return total

    def fuse(self, paths: Sequence[Tensor], name: str) -> Tensor:
        size = [max(path.shape[axis] for path in paths) for axis in (-2, -1)]
        return torch.stack(
            [stretched(self.conv(path, f"{name}.convs.{number}"), size) for number, path in enumerate(paths)]
        ).sum(0)

    def block(self, taps: Sequence[Tensor], coarse: list[Tensor], name: str) -> Tensor:
        paths = []
        for number, tap in enumerate(taps):
            path = self.conv(tap, f"{name}.adapt.{number}.0")
            first = 2 if f"{name}.adapt.{number}.1.running_var" in self.w else 1
            for unit in range(first, self.count(f"{name}.adapt.{number}.")):
                path = self.unit(path, f"{name}.adapt.{number}.{unit}")
            paths.append(path)
        for unit in range(self.count(f"{name}.adapt_coarse.")):
            coarse = [self.unit(coarse[0], f"{name}.adapt_coarse.{unit}")]
        paths += coarse
        x = self.fuse(paths, f"{name}.fuse") if len(paths) > 1 else paths[0]
        x = self.pool(x, f"{name}.pool")
        for unit in range(self.count(f"{name}.refine.")):
            x = self.unit(x, f"{name}.refine.{unit}")
        return x

    def decode(self, features: dict[int, Tensor], cascade: Sequence[Sequence[int]]) -> Tensor:
        coarse: list[Tensor] = []
        for number, strides in enumerate(cascade):
            coarse = [self.block([features[stride] for stride in strides], coarse, f"blocks.{number}")]
        return self.conv(coarse[0], "classifier")


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shortcut", [True, False])
def test_residual_conv_unit(shortcut: bool) -> None:
    unit, x = ResidualConvUnit(4, options_of(rcu_shortcut=shortcut)).double(), torch.randn(2, 4, 7, 5).double()
    w = unit.state_dict()
    hidden = F.conv2d(x.clamp(min=0), w["conv1.weight"], w["conv1.bias"], padding=1).clamp(min=0)
    close(unit(x), F.conv2d(hidden, w["conv2.weight"], padding=1) + (x if shortcut else 0))


@pytest.mark.parametrize("kernel_size", [3, 1])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_fusion_convolves_then_upsamples_to_the_largest_then_sums(kernel_size: int, order: tuple[int, ...]) -> None:
    paths = [torch.randn(2, 3, 9, 13).double(), torch.randn(2, 5, 5, 7).double(), torch.randn(2, 4, 1, 2).double()]
    paths = [paths[number] for number in order]
    fusion = MultiResolutionFusion([path.shape[1] for path in paths], 3, options_of(kernel_size=kernel_size)).double()
    convolved = [
        F.conv2d(path, conv.weight, padding=kernel_size // 2) for path, conv in zip(paths, fusion.convs, strict=True)
    ]
    close(fusion(paths), sum(stretched(path, (9, 13)) for path in convolved))


@pytest.mark.parametrize("conv_first", [False, True])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("links", [0, 1, 2, 4])
def test_chained_residual_pooling(conv_first: bool, shortcut: bool, links: int) -> None:
    options = options_of(crp_links=links, crp_conv_first=conv_first, crp_shortcut=shortcut)
    pooling, x = ChainedResidualPooling(4, options).double(), torch.randn(2, 4, 11, 6).double()
    total = path = x.clamp(min=0)
    for conv in pooling.convs:
        steps = [lambda y: F.max_pool2d(y, 5, 1, 2), lambda y, w=conv.weight: F.conv2d(y, w, padding=1)]
        for step in reversed(steps) if conv_first else steps:
            path = step(path)
        total = total + path if shortcut else path
    close(pooling(x), total)


def test_two_links_written_out() -> None:
    """ReLU(x) + a + b with a = conv(pool(ReLU(x))), b = conv(pool(a)); a convolution that doubles stands for all."""
    pooling = ChainedResidualPooling(1, options_of(crp_links=2, kernel_size=1))
    nn.init.constant_(pooling.convs[0].weight, 2.0)
    nn.init.constant_(pooling.convs[1].weight, -1.0)
    x = torch.tensor([[[[-3.0, 1.0, 0.0, 0.0, 5.0, 0.0, -1.0]]]])
    # pool: [1, 1, 5, 5, 5, 5, 5]; twice that, a: [2, 2, 10, ..]; pool of a: all 10; b: all -10
    assert pooling(x).flatten().tolist() == [-8.0, -7.0, 0.0, 0.0, 5.0, 0.0, 0.0]


@pytest.mark.parametrize("inputs", [1, 2])
def test_block(inputs: int) -> None:
    taps = [torch.randn(1, 5, 6, 9).double(), torch.randn(1, 3, 3, 5).double()][:inputs]
    coarse = [torch.randn(1, 6, 2, 3).double()][: inputs - 1]
    coarse_channels = 6 if coarse else None
    block = RefineNetBlock([5, 3][:inputs], [7, 4][:inputs], coarse_channels, options_of()).double()
    assert block.width == (7 if inputs == 1 else 4)
    named = nn.ModuleDict({"block": block})
    close(block(taps, coarse[0] if coarse else None), ByHand(named).block(taps, coarse, "block"))


@pytest.mark.parametrize("name", VARIANTS)
def test_cascades(name: str) -> None:
    net, features = decoder(cascade=VARIANTS[name]), maps()
    assert len(net.blocks) == len(VARIANTS[name])
    close(net(features), ByHand(net).decode(features, VARIANTS[name]))
    assert net(features).shape == (2, 3, 12, 18)


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({"crp_conv_first": True, "crp_links": 2}, {"conv_first": True}),
        ({"rcu_shortcut": False}, {"residual": False}),
        ({"crp_shortcut": False}, {"chained": False}),
        ({"crp_links": 0, "output_units": 1, "coarse_units": 2}, {}),
        ({"kernel_size": 1, "adapt_units": 0, "output_units": 0}, {}),
    ],
)
def test_options_reach_every_block(options: dict[str, Any], rules: dict[str, bool]) -> None:
    net, features = decoder(**options), maps()
    close(net(features), ByHand(net, **rules).decode(features, VARIANTS["refinenet"]))


def test_biases_are_in_first_convolutions_of_units_and_the_classifier_alone() -> None:
    names = {name for name, _ in decoder().named_parameters() if name.endswith("bias")}
    units = [f"adapt.0.{number}" for number in (1, 2)] + [f"refine.{number}" for number in (0, 1, 2)]
    assert names == {f"blocks.{block}.{unit}.conv1.bias" for block in range(4) for unit in units} | {"classifier.bias"}


def test_classifier_starts_small() -> None:
    classifier = create_model("refinenet_lw", num_classes=21).decoder.classifier
    assert classifier.weight.shape == (21, 256, 3, 3)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert classifier.bias.eq(0).all()


def on_meta(name: str, backbone: str, **options: Any) -> SegmentationModel:
    with torch.device("meta"):
        return create_model(name, backbone, 21, **options)


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_refinenet_over_resnet101_has_118_052_437_parameters() -> None:
    assert numbers(on_meta("refinenet", "resnet101")) == 118_052_437


@pytest.mark.parametrize(("backbone", "millions"), [("resnet50", 27), ("resnet101", 46), ("resnet152", 62)])
def test_light_weight_refinenet_has_the_published_numbers_of_parameters(backbone: str, millions: int) -> None:
    assert round(numbers(on_meta("refinenet_lw", backbone)) / 1e6) == millions


def blocks(name: str, backbone: str = "resnet50") -> list[tuple[list[Any], int]]:
    """Of each block: what it takes from the encoder, and its width."""
    net = on_meta(name, backbone).decoder
    return [(keys, block.width) for keys, block in zip(net.taps, net.blocks, strict=True)]


@pytest.mark.parametrize("name", ["refinenet", "refinenet_improved", "refinenet_lw"])
def test_default_cascade_has_four_blocks_of_512_and_256_channels(name: str) -> None:
    assert blocks(name) == [([32], 512), ([16], 256), ([8], 256), ([4], 256)]


def test_other_cascades_have_the_papers_structure() -> None:
    assert blocks("refinenet_single") == [([32, 16, 8, 4], 256)]
    assert blocks("refinenet_2cascade") == [([32, 16], 256), ([8, 4], 256)]
    assert blocks("refinenet_2scale") == [
        ([(stride, 1.2), (stride, 0.6)], width) for stride, width in ((32, 512), (16, 256), (8, 256), (4, 256))
    ]


def test_two_scales_have_an_encoder_each() -> None:
    net = on_meta("refinenet_2scale", "resnet50")
    assert numbers(net.encoder) == 2 * numbers(on_meta("refinenet", "resnet50").encoder)
    assert net.encoder.encoders[0] is not net.encoder.encoders[1]


def test_units_and_kernels_of_the_variants() -> None:
    units = {}
    for name in ("refinenet", "refinenet_improved", "refinenet_lw"):
        net = on_meta(name, "resnet50").decoder
        units[name] = sum(isinstance(module, ResidualConvUnit) for module in net.modules())
        pools = [module for module in net.modules() if isinstance(module, ChainedResidualPooling)]
        assert [len(pool.convs) for pool in pools] == [4] * 4
        assert {pool.conv_first for pool in pools} == {name == "refinenet_improved"}
    assert units == {"refinenet": 20, "refinenet_improved": 20, "refinenet_lw": 0}
    light = dict(on_meta("refinenet_lw", "resnet50").decoder.named_modules())
    kernels = {name: module.kernel_size for name, module in light.items() if isinstance(module, nn.Conv2d)}
    assert kernels.pop("classifier") == (3, 3)
    assert set(kernels.values()) == {(1, 1)}


@pytest.mark.parametrize("links", [0, 1, 6])
def test_number_of_pooling_links_is_an_option_of_the_model(links: int) -> None:
    names = [name for name, _ in on_meta("refinenet", "resnet18", crp_links=links).named_parameters()]
    assert sum(".pool.convs." in name for name in names) == 4 * links


class Recorder(nn.Module):
    """Notes how many channels it is given, and alters nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[1])
        return x


@pytest.mark.parametrize(
    ("name", "backbone", "dropped"),
    [
        ("refinenet", "resnet50", [2048, 1024, 12]),
        ("refinenet_single", "resnet50", [2048, 1024, 12]),
        ("refinenet_2scale", "resnet50", [2048, 2048, 1024, 1024, 12]),
        ("refinenet", "resnet18", [12]),
        ("refinenet", "vgg11", [12]),
    ],
)
def test_dropout_is_on_taps_of_more_than_512_channels_and_before_the_classifier(
    name: str, backbone: str, dropped: list[int], cheap_model: Build
) -> None:
    net = cheap_model(name, backbone)
    assert isinstance(net.decoder.dropout, nn.Dropout)
    assert net.decoder.dropout.p == 0.5
    assert isinstance(net.decoder.classifier_dropout, nn.Dropout)
    assert net.decoder.classifier_dropout.p == 0.5
    net.decoder.dropout = net.decoder.classifier_dropout = recorder = Recorder()
    net(torch.randn(1, 3, 40, 50))
    assert recorder.seen == dropped


def test_light_weight_has_no_dropout_before_the_classifier(cheap_model: Build) -> None:
    assert cheap_model("refinenet_lw", "resnet50").decoder.classifier_dropout.p == 0


def test_nothing_is_random_in_evaluation_and_something_is_in_training(cheap_model: Build) -> None:
    net, images = cheap_model("refinenet", "resnet50"), torch.randn(1, 3, 40, 50)
    assert torch.equal(net(images), net(images))
    net.decoder.train()
    assert not torch.equal(net(images), net(images))


def test_gradient_passes_every_block_through_sums_alone(cheap_model: Build) -> None:
    """With all residual and pooling convolutions at zero, the shortcuts still carry the taps to the scores."""
    net = cheap_model("refinenet", "resnet18")
    for module in net.decoder.modules():
        if isinstance(module, ResidualConvUnit | ChainedResidualPooling):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    maps_of_image = net.encoder(torch.randn(1, 3, 64, 64))
    features = {stride: tensor.detach().requires_grad_() for stride, tensor in maps_of_image.items()}
    gradients = torch.autograd.grad(net.decoder(features).square().sum(), list(features.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cascade": [[64], [4]]}, "model.cascade=[[64], [4]] must name strides"),
        ({"cascade": [[2]]}, "of the encoder's maps, which are [4, 8, 16, 32]"),
        ({"cascade": []}, "model.cascade=[] must name strides"),
        ({"cascade": [[], [32]]}, "model.cascade=[[], [32]] must name strides"),
        ({"widths": {4: 8}}, "each with a width in model.widths={4: 8}"),
        ({"kernel_size": 2}, "model.kernel_size=2 must be odd"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        decoder(**options)
    assert words in str(caught.value)


def test_norms_follow_the_convolutions_of_units_adaptation_and_fusion() -> None:
    net = decoder(norm=True)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    # Four adaptations, four times five units of two convolutions, three fusions of two paths.
    assert len(norms) == 4 + 4 * 5 * 2 + 3 * 2
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -1.0, 1.0)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    features = maps()
    close(net(features), ByHand(net).decode(features, VARIANTS["refinenet"]))


def test_the_watched_relus_are_those_without_a_way_around() -> None:
    pools = [f"blocks.{block}.pool.relu" for block in range(4)]
    assert list(decoder().relus()) == pools
    units = decoder(rcu_shortcut=False, adapt_units=1, output_units=1).relus()
    assert set(units) == {*pools} | {
        f"blocks.{block}.{place}.relu{number}"
        for block in range(4) for place in ("adapt.0.1", "refine.0") for number in (1, 2)
    }  # fmt: skip
