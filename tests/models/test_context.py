"""The dilation context module against a few lines by hand, the paper's table, and the networks without it."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segrefine
from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.models.build import create_model
from segrefine.models.cost import count_parameters
from segrefine.models.decoders.context import DilationContext
from segrefine.models.logits import Logits
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.checkpoint import KEY, describe
from segrefine.weights.published import FORMS, to_published

pytestmark = pytest.mark.usefixtures("narrow")

Build = Callable[..., Any]
NETWORKS = [
    ("fcn8s", "resnet18", {"init": "default"}),
    ("fcn16s", "vgg11", {"geometry": "caffe"}),
    ("fcn_dilated", "resnet50", {"init": "default"}),
    ("refinenet", "vgg11", {"input_scale": 1.2, "init": "zero_residual"}),
    ("refinenet_lw", "resnet18", {"init": "release"}),
    ("refinenet_2scale", "resnet18", {"init": "zero_mean"}),
]


def shaken(module: nn.Module) -> nn.Module:
    """The module with random weights in its convolutions, so that it is no identity."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def both(build: Build, name: str, backbone: str, **options: Any) -> tuple[Any, Any]:
    """A network without and one with the context module, the rest of their weights the same."""
    plain = deepcopy(build(name, backbone, **options))
    net = build(name, backbone, context=True, **options)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {key.split(".")[1] for key in missing} == {"context"}
    return plain, net


@pytest.mark.parametrize("classes", [1, 2, 11, 21])
def test_the_number_of_parameters_is_that_of_seven_3x3_layers_and_a_1x1_layer(classes: int) -> None:
    assert count_parameters(DilationContext(classes)) == 7 * (9 * classes**2 + classes) + classes**2 + classes
    assert count_parameters(DilationContext(11)) == 7832


def test_a_score_sees_67x67_scores() -> None:
    """The last row of the paper's Table 1, which also gives what a score sees after each layer."""
    module = DilationContext(2).double()
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1)
    sides = []
    for count in (2, 4, 6, 8, 10, 12, 14, 15):  # with the ReLUs
        scores = torch.rand(1, 2, 91, 93, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(nn.Sequential(*list(module)[:count])(scores)[0, 0, 45, 46], scores)
        rows, columns = gradient[0].abs().sum(0).nonzero().T
        assert (rows.min() + rows.max(), columns.min() + columns.max()) == (90, 92)
        assert rows.max() - rows.min() == columns.max() - columns.min()
        sides.append((rows.max() - rows.min() + 1).item())
    assert sides == [3, 5, 9, 17, 33, 65, 67, 67]
    scores = torch.randn(1, 2, 91, 93, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(scores)[0, 0, 45, 46], scores)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([45 - 33, 46 - 33], [45 + 33, 46 + 33])


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (31, 40)])
def test_scores_are_convolved_and_truncated_above_the_lowest_of_their_cell(size: tuple[int, int]) -> None:
    module = shaken(DilationContext(3)).double()
    scores = 3 * torch.randn(2, 3, *size, dtype=torch.float64)
    lowest = scores.min(dim=1, keepdim=True).values - 1
    x, layers = scores - lowest, [layer for layer in module if isinstance(layer, nn.Conv2d)]
    for layer, dilation in zip(layers[:-1], (1, 1, 2, 4, 8, 16, 1), strict=True):
        x = F.conv2d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation).clamp(min=0)
    x = torch.einsum("kc,bchw->bkhw", layers[-1].weight[:, :, 0, 0], x) + layers[-1].bias[:, None, None]
    torch.testing.assert_close(module(scores), x + lowest)


@pytest.mark.parametrize(("name", "backbone", "options"), NETWORKS)
def test_a_network_starts_as_the_one_without(
    name: str, backbone: str, options: dict[str, Any], cheap_model: Build
) -> None:
    """To rounding, whatever the decoder's own convolutions start as."""
    plain, net = both(cheap_model, name, backbone, **options)
    for size in ((33, 47), (32, 101)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = plain(images)
            torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-6)
            assert expected.std() > 1e-5


def test_scores_of_zero_learn_through_it_as_without() -> None:
    """FCN's score layers start at zero, where a ReLU would pass no gradient."""
    images, labels, gradients = torch.randn(1, 3, 41, 50), torch.randint(4, (1, 41, 50)), []
    for context in (False, True):
        torch.manual_seed(2)
        net = create_model("fcn8s", "resnet18", 4, context=context).eval()
        F.cross_entropy(net(images), labels).backward()
        gradients.append({key: layer.weight.grad for key, layer in net.decoder.score.items()})
    for key, expected in gradients[0].items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad.any() for parameter in net.decoder.context.parameters())


@pytest.mark.parametrize("band", [10**6, 1000])
def test_loss_classes_and_views_are_those_of_its_scores(
    band: int, cheap_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segrefine.models.logits.BAND", band)
    net = cheap_model("fcn8s", "resnet18", context=True)
    shaken(net.decoder.context)
    images, labels = torch.randn(2, 3, 45, 67), torch.randint(3, (2, 45, 67))
    with torch.no_grad():
        scores = net.decoder.context(net.decoder(net.encoder(images)))
        logits = net.upsample(scores, (45, 67))
        torch.testing.assert_close(net(images), logits)
        torch.testing.assert_close(Logits(net, images).loss(labels), F.cross_entropy(logits, labels))
        at_scores = Logits(net, images, "scores")
        torch.testing.assert_close(at_scores.loss(labels), F.cross_entropy(scores, labels[:, ::8, ::8]))
        assert torch.equal(at_scores.classes(), logits.argmax(1).to(torch.uint8))
        both_ways = logits.softmax(1) + net(images.flip(-1)).flip(-1).softmax(1)
        torch.testing.assert_close(TestTimeAugmentation(net, flip=True)(images), both_ways / 2)


@pytest.mark.parametrize(("name", "own"), [("fcn8s", 0), ("refinenet", 4), ("fcn_dilated", 1)])
def test_its_relus_are_among_those_that_can_die(name: str, own: int, cheap_model: Build) -> None:
    names = [key for key in cheap_model(name, "resnet50", context=True).relus() if key.startswith("decoder.")]
    assert [key for key in names if "context" in key] == [f"decoder.context.{index}" for index in range(1, 14, 2)]
    assert len(names) == own + 7


def test_a_checkpoint_gives_it_back_and_starts_from_a_network_without(tmp_path: Path) -> None:
    net = create_model("refinenet_lw", "resnet18", 3, context=True, widths=dict.fromkeys((4, 8, 16, 32), 8)).eval()
    shaken(net.decoder.context)
    config = {
        "model": read_group("model", "refinenet_lw") | {"context": True, "widths": dict.fromkeys((4, 8, 16, 32), 8)},
        "backbone": read_group("backbone", "resnet18"),
    }
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    about = describe(config, ["a", "b", "c"], voc_color_map(3))
    torch.save({"state_dict": tensors, KEY: about}, tmp_path / "best.ckpt")
    images = torch.randn(1, 3, 33, 47)
    assert torch.equal(segrefine.load_model(tmp_path / "best.ckpt")(images), net(images))
    plain = {name: tensor for name, tensor in net.state_dict().items() if ".context." not in name}
    torch.save(plain, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"decoder\.context\.0\.weight"):
        segrefine.load_weights(net, tmp_path / "plain.pth")
    segrefine.load_weights(net, tmp_path / "plain.pth", strict=False)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_other_code_has_none_so_its_weights_are_not_written(form: Any, cheap_model: Build) -> None:
    name, backbone, options = {
        "pytorch_fcn": ("fcn8s", "vgg16", {"geometry": "caffe"}),
        "refinenet_pytorch": ("refinenet", "resnet50", {}),
        "torchvision_deeplabv3": ("deeplabv3", "resnet50", {}),
        "torchvision": ("fcn_dilated", "resnet50", {}),
    }[form.name]
    net = cheap_model(name, backbone, context=True, **options)
    with pytest.raises(UserError, match=rf"format={form.name}: other code has no context module.*model\.context=true"):
        to_published(form, net)
