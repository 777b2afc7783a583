"""Parameter groups by membership and value, and first optimizer steps worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import make_recipe
from torch import Tensor, nn

from segrefine.engine.optim import center_updates, create_optimizer, filters, parameter_groups
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel

Group = dict[str, Any]
RATES = {"lr": 0.1, "weight_decay": 0.01, "encoder_lr_multiplier": 0.5, "bias_lr_multiplier": 2.0}


def groups_of(net: nn.Module, **options: Any) -> list[Group]:
    """The groups of a recipe with these options, at the recipe's own rate."""
    recipe = make_recipe(**options)
    return parameter_groups(net, recipe, recipe.lr)


class Tiny(nn.Module):
    """An encoder with a convolution and batch norm, and a decoder with a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Sequential(nn.Conv2d(4, 2, 1))


def by_name(groups: list[Group]) -> dict[str, Group]:
    named = {group["name"]: group for group in groups}
    assert len(named) == len(groups)
    return named


def members(group: Group) -> set[int]:
    return {id(parameter) for parameter in group["params"]}


def of_modules(part: nn.Module, attribute: str) -> set[int]:
    """The parameters that the part's modules call `weight` or `bias`."""
    found = [getattr(module, attribute, None) for module in part.modules()]
    return {id(parameter) for parameter in found if isinstance(parameter, nn.Parameter) and parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "backbone"), [("fcn8s", "resnet18"), ("fcn8s", "vgg11"), ("refinenet_2scale", "resnet18")]
)
def test_every_trained_parameter_is_in_the_one_group_it_belongs_to(
    name: str, backbone: str, cheap_model: Callable[..., SegmentationModel]
) -> None:
    net = cheap_model(name, backbone).requires_grad_(True)
    groups = by_name(groups_of(net, **RATES))
    expected = {
        f"{part}/{kind}": of_modules(getattr(net, part), attribute)
        for part in ("encoder", "decoder")
        for kind, attribute in (("weights", "weight"), ("biases", "bias"))
    }
    assert {name: members(group) for name, group in groups.items()} == expected
    assert sum(len(group["params"]) for group in groups.values()) == len(list(net.parameters()))
    net.encoder.requires_grad_(False)  # the encoder is shared by other tests


@pytest.mark.parametrize(("bias_decay", "decay_of_biases"), [(True, 0.01), (False, 0.0)])
def test_rates_and_decays(bias_decay: bool, decay_of_biases: float) -> None:
    groups = by_name(groups_of(Tiny(), **RATES, bias_decay=bias_decay))
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "encoder/weights": (0.05, 0.01),
        "encoder/biases": (0.1, decay_of_biases),
        "decoder/weights": (0.1, 0.01),
        "decoder/biases": (0.2, decay_of_biases),
    }


def test_rates_are_equal_unless_told() -> None:
    same = {"encoder_lr_multiplier": 1.0, "bias_lr_multiplier": 1.0, "bias_decay": True}
    groups = groups_of(Tiny(), lr=0.3, weight_decay=0.02, **same)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.3, 0.02)] * 4


def test_frozen_parameters_are_in_no_group_and_empty_groups_are_left_out() -> None:
    net = Tiny()
    net.encoder.requires_grad_(False)
    net.decoder[0].bias.requires_grad_(False)
    groups = groups_of(net, **RATES)
    assert [group["name"] for group in groups] == ["decoder/weights"]
    assert members(groups[0]) == {id(net.decoder[0].weight)}


def test_fixed_upsampling_is_in_no_group(cheap_model: Callable[..., SegmentationModel]) -> None:
    net = cheap_model("fcn8s", "resnet18", upsample="fixed")
    groups = by_name(groups_of(net, **RATES))
    assert members(groups["decoder/weights"]) == {id(layer.weight) for layer in net.decoder.score.values()}


def stepped(name: str, steps: int, fused: bool, momentum: float = 0.9) -> list[tuple[str, Tensor, Tensor]]:
    """Group name, parameter before and after some steps with gradient 3."""
    net = Tiny()
    groups = groups_of(net, **RATES, bias_decay=False)
    parameters = [(group["name"], parameter) for group in groups for parameter in group["params"]]
    before = [parameter.detach().clone() for _, parameter in parameters]
    optimizer = create_optimizer(groups, make_recipe(optimizer=name, momentum=momentum), fused)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    for _ in range(steps):
        optimizer.step()
    return [(group, start, after.detach()) for (group, after), start in zip(parameters, before, strict=True)]


HAND = {  # rate and decay
    "encoder/weights": (0.05, 0.01),
    "encoder/biases": (0.1, 0.0),
    "decoder/weights": (0.1, 0.01),
    "decoder/biases": (0.2, 0.0),
}


@pytest.mark.parametrize("fused", [True, False])
def test_two_steps_of_sgd_with_momentum(fused: bool) -> None:
    for group, before, after in stepped("sgd", 2, momentum=0.8, fused=fused):
        rate, decay = HAND[group]
        velocity = 3 + decay * before
        between = before - rate * velocity
        velocity = 0.8 * velocity + 3 + decay * between
        torch.testing.assert_close(after, between - rate * velocity)


@pytest.mark.parametrize("fused", [True, False])
def test_first_step_of_adamw_decays_apart_from_the_gradient(fused: bool) -> None:
    for group, before, after in stepped("adamw", 1, fused=fused):
        rate, decay = HAND[group]
        torch.testing.assert_close(after, before * (1 - rate * decay) - rate)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_centered_updates_are_those_of_the_optimizer_less_their_mean(optimizer: str) -> None:
    recipe = make_recipe(optimizer=optimizer, **RATES)
    changes = []
    for centered in (False, True):
        torch.manual_seed(0)
        net = Tiny()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        made = create_optimizer(parameter_groups(net, recipe, recipe.lr), recipe)
        if centered:
            center_updates(made, [net.decoder[0].weight])
        net.decoder(net.encoder(torch.rand(2, 3, 8, 8) + 0.5)).square().sum().backward()
        made.step()
        changes.append([now.detach() - then for now, then in zip(net.parameters(), before, strict=True)])
    names = [name for name, _ in Tiny().named_parameters()]
    for name, plain, change in zip(names, *changes, strict=True):
        expected = plain - plain.mean((1, 2, 3), keepdim=True) if name == "decoder.0.weight" else plain
        assert plain.abs().max() > 1e-4 or name == "encoder.0.bias"  # which the norm behind it takes out again
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-7)


def test_filters_are_the_trained_convolutions_of_a_part(cheap_model: Callable[..., SegmentationModel]) -> None:
    net = cheap_model("fcn8s", "resnet18").requires_grad_(True)
    net.encoder.conv1.requires_grad_(False)
    decoder, everything = ({id(weight) for weight in filters(net, which)} for which in ("decoder", "all"))
    assert decoder == {id(layer.weight) for layer in net.decoder.score.values()}  # not the transposed ones
    assert decoder < everything
    assert id(net.encoder.layer4[0].conv1.weight) in everything
    assert id(net.encoder.conv1.weight) not in everything


def test_filters_of_a_single_weight_are_left_to_change() -> None:
    net: Any = Tiny()
    net.decoder.append(nn.Conv2d(2, 2, 1, groups=2))
    assert [id(weight) for weight in filters(net, "decoder")] == [id(net.decoder[0].weight)]


@pytest.mark.parametrize(
    ("model", "backbone", "options", "scores"),
    [
        ("fcn8s", "resnet18", {}, 3),
        ("fcn8s", "resnet18", {"context": True}, 4),  # not the context module's layers before its last
        ("refinenet_64", "resnet18", {}, 1),
        ("refinenet", "resnet18", {"widths": dict.fromkeys((4, 8, 16, 32), 5), "auxiliary": 0.5}, 4),  # as wide as K
        ("refinenet_64", "resnet18", {"context": True}, 2),
        ("fcn_dilated", "resnet50", {}, 1),
        ("deeplabv3", "resnet50", {"auxiliary": 0.5}, 2),
        ("segnet", "vgg11_bn", {}, 1),
        ("segnet", "vgg11_bn", {"num_classes": 64}, 1),  # as wide as one of its stages
    ],
)
def test_hidden_filters_are_all_but_those_of_the_scores(
    model: str, backbone: str, options: dict[str, Any], scores: int
) -> None:
    with torch.device("meta"):
        net = create_model(model, backbone, **{"num_classes": 5} | options)
    left_out = {id(weight) for weight in filters(net, "all")} - {id(weight) for weight in filters(net, "hidden")}
    layers = {id(module.weight) for module in net.decoder.modules() if isinstance(module, nn.Conv2d)}
    assert left_out <= layers
    assert len(left_out) == scores
