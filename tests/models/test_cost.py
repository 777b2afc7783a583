"""Parameters and multiply-adds against a count by hooks and closed forms; nothing of the network changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segrefine.models.build import create_model
from segrefine.models.cost import count_multiply_adds, count_parameters, measure_cost
from segrefine.models.network import SegmentationModel

Build = Callable[..., SegmentationModel]


def counted_by_hooks(net: nn.Module, size: tuple[int, int]) -> int:
    """Of every convolution: numbers put out, times the products that each is summed from."""
    total = 0

    def add(module: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(add) for module in net.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("name", "backbone", "size"),
    [("fcn32s", "resnet18", (64, 96)), ("fcn8s", "vgg11", (33, 47)), ("refinenet_2scale", "resnet18", (45, 61))],
)
def test_multiply_adds_are_those_of_the_convolutions(
    name: str, backbone: str, size: tuple[int, int], cheap_model: Build
) -> None:
    net = cheap_model(name, backbone, **({"upsample": "interpolate"} if name.startswith("fcn") else {}))
    expected = counted_by_hooks(net, size)
    assert expected > 1e6
    assert count_multiply_adds(net, size) == expected


def test_transposed_convolutions_count_too(cheap_model: Build) -> None:
    """A 2x3 map with a cell more before and two behind, 63x63 taps, 3 classes in and out."""
    interpolated = cheap_model("fcn32s", "resnet18", upsample="interpolate")
    learned = cheap_model("fcn32s", "resnet18", upsample="learned")
    difference = count_multiply_adds(learned, (64, 96)) - count_multiply_adds(interpolated, (64, 96))
    assert difference == (2 + 3) * (3 + 3) * 63**2 * 3**2


def test_resnet18_at_224_has_the_known_cost() -> None:
    """1.81 G multiply-adds, less the 512 x 1000 of ImageNet's classifier, which is not here."""
    net = create_model("fcn32s", "resnet18", num_classes=2, upsample="interpolate")
    assert count_multiply_adds(net, (224, 224)) == 1_814_073_344 - 512 * 1000 + 7 * 7 * 512 * 2


def test_counting_changes_nothing(cheap_model: Build) -> None:
    net = cheap_model("refinenet", "resnet18").train()
    net.encoder.bn1.eval()  # a frozen norm
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    count_multiply_adds(net, (40, 50))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(type(parameter) is nn.Parameter for parameter in net.parameters())


def test_cost_depends_on_neither_dtype_nor_memory_layout(filled: Callable[..., Any]) -> None:
    expected = count_multiply_adds(create_model("fcn8s", "resnet18", 3), (40, 50))
    for change in ({"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"memory_format": torch.channels_last}):
        net = filled(create_model, "fcn8s", "resnet18", 3).to(**change)
        assert count_multiply_adds(net, (40, 50)) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_network_on_the_gpu_costs_the_same() -> None:
    net = create_model("fcn8s", "resnet18", 3)
    assert count_multiply_adds(net, (40, 50)) == count_multiply_adds(net.cuda(), (40, 50))


def test_parameters_are_counted_once_trained_or_not() -> None:
    layer = nn.Linear(3, 5)
    net = nn.Sequential(layer, nn.Conv2d(2, 4, 3, bias=False), layer)
    net[1].requires_grad_(False)
    assert count_parameters(net) == 5 * 3 + 5 + 4 * 2 * 9


def test_a_trained_crf_is_no_part_of_the_multiply_adds(cheap_model: Build) -> None:
    plain, refined = (cheap_model("fcn8s", "resnet18", crf=crf) for crf in (False, True))
    costs = [measure_cost(net, (360, 480)) for net in (plain, refined)]
    assert costs[0]["flops"] == costs[1]["flops"]
    assert costs[0]["params"] < costs[1]["params"]
    assert refined.decoder.crf is not None


def test_cost_for_the_summary(cheap_model: Build) -> None:
    net = cheap_model("fcn8s", "resnet18")
    assert measure_cost(net, (40, 50)) == {
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "flops": count_multiply_adds(net, (40, 50)),
        "flops_size": [40, 50],
    }
