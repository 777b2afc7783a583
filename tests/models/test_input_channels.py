"""Networks for gray images and for RGB with more behind it: their first layer, and what they take for input."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import Build
from timm.models._manipulate import adapt_input_conv
from torch import nn

from segrefine.core.channels import spread, to_rgb
from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.cost import count_multiply_adds
from segrefine.models.encoders import create_encoder
from segrefine.models.encoders.base import MEAN, STD, Encoder
from segrefine.models.encoders.weights import adapt_input

pytestmark = pytest.mark.usefixtures("narrow")

FIRST = {"resnet18": "conv1.weight", "vgg11": "features.0.weight", "test_resnet": "conv1.0.weight"}


def saved(name: str, folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a whole network for RGB, and their file."""
    torch.manual_seed(1)
    if name == "vgg11":
        tensors = torchvision.models.vgg11(weights=None).features.state_dict(prefix="features.")
    else:
        tensors = (torchvision.models.resnet18() if name == "resnet18" else timm.create_model(name)).state_dict()
    torch.save(tensors, folder / "rgb.pth")
    return tensors, str(folder / "rgb.pth")


def encoder(name: str, weights: str | None, in_channels: int) -> Encoder:
    own = {"timm_name": name} if name.startswith("test") else {}
    return create_encoder("timm" if own else name, weights, in_channels=in_channels, **own).eval()


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 6, 7])
def test_the_first_layer_is_adapted_as_timm_adapts_it(in_channels: int) -> None:
    weight, later = torch.randn(5, 3, 7, 7), torch.randn(6, 5, 3, 3)
    wanted = {"first": torch.empty(5, in_channels, 7, 7), "later": later}
    found = adapt_input({"first": weight, "later": later, "unknown": weight}, wanted, in_channels)
    torch.testing.assert_close(found["first"], adapt_input_conv(in_channels, weight))
    assert found["later"] is later
    assert found["unknown"] is weight


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("in_channels", [1, 4, 6])
def test_weights_for_rgb_fill_any_encoder(name: str, in_channels: int, tmp_path: Path) -> None:
    """With the same outputs where the images say the same: gray ones once or three times, RGB once or twice."""
    tensors, path = saved(name, tmp_path)
    adapted, usual = encoder(name, path, in_channels), encoder(name, path, 3)
    first = next(weight for weight in adapted.state_dict().values() if weight.ndim == 4)
    torch.testing.assert_close(first, adapt_input_conv(in_channels, tensors[FIRST[name]]))
    rgb = torch.randn(1, 1 if in_channels == 1 else 3, 64, 96)
    same = {1: rgb, 6: torch.cat([rgb, rgb], 1)}
    if in_channels in same:
        with torch.no_grad():
            found, expected = adapted(same[in_channels]), usual(rgb.expand(-1, 3, -1, -1))
        for stride, maps in expected.items():
            torch.testing.assert_close(found[stride], maps, rtol=1e-4, atol=1e-5)


def test_weights_made_for_the_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    tensors, _ = saved("resnet18", tmp_path)
    tensors["conv1.weight"] = torch.randn(64, 4, 7, 7)
    torch.save(tensors, tmp_path / "four.pth")
    found = encoder("resnet18", str(tmp_path / "four.pth"), 4)
    assert torch.equal(found.conv1.weight, tensors["conv1.weight"])
    with pytest.raises(UserError, match=r"of another shape: conv1.weight \(64, 4, 7, 7\) instead of \(64, 6, 7, 7\)"):
        encoder("resnet18", str(tmp_path / "four.pth"), 6)


def test_weights_from_the_hub_are_adapted_by_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: dict(whole))
    found = encoder("test_resnet", "pretrained", 4).net.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(found, adapt_input_conv(4, whole["conv1.0.weight"]))


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_random_layers_start_as_torchvisions(name: str) -> None:
    """The same spread of values, whose fan-out does not depend on the input; another layer for RGB is torchvision's."""
    rgb, six = (next(encoder(name, None, count).parameters()) for count in (3, 6))
    assert six.shape[1] == 6
    fan_out = six.shape[0] * six.shape[2] ** 2
    for weight in (rgb, six):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.25 if name == "vgg11" else 0.05)


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("fcn8s", "vgg11", {}),
        ("fcn16s", "vgg11_bn", {"geometry": "caffe"}),
        ("fcn_dilated", "resnet50", {}),
        ("refinenet_2scale", "resnet18", {}),
        ("refinenet_lw", "timm", {}),
        ("segnet", "vgg11_bn", {}),
        ("deeplab_largefov", "vgg11", {}),
        ("smp_unet", "resnet18", {}),
        ("fcn32s", "resnet18", {"crf": True}),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 4, 5])
def test_every_channel_counts(name: str, backbone: str, options: dict, in_channels: int, cheap_model: Build) -> None:
    net = cheap_model(name, backbone, in_channels=in_channels, **options)
    assert net.in_channels == in_channels
    images = torch.rand(2, in_channels, 37, 66, requires_grad=True)
    logits = net(net.preprocess(images))
    assert logits.shape == (2, 3, 37, 66)
    logits.square().sum().backward()
    assert (images.grad.abs().sum((2, 3)) > 0).all()  # type: ignore[union-attr]


def test_each_channel_costs_its_share_of_the_first_layer() -> None:
    costs = [
        count_multiply_adds(create_model("fcn32s", "resnet18", 3, count), (64, 96), count) for count in (1, 3, 4, 6)
    ]
    one = 64 * 7 * 7 * 32 * 48
    assert [cost - costs[0] for cost in costs] == [0, 2 * one, 3 * one, 5 * one]


def test_normalization_repeats_that_of_rgb() -> None:
    for count, mean, std in (
        (1, [0.449], [0.226]),
        (3, [*MEAN], [*STD]),
        (4, [*MEAN, MEAN[0]], [*STD, STD[0]]),
        (6, [*MEAN, *MEAN], [*STD, *STD]),
    ):
        net = create_model("fcn32s", "resnet18", 3, in_channels=count)
        assert net.mean.shape == net.std.shape == (count, 1, 1)
        torch.testing.assert_close(net.mean.flatten(), torch.tensor(mean), atol=5e-4, rtol=0)
        torch.testing.assert_close(net.std.flatten(), torch.tensor(std), atol=5e-4, rtol=0)
        images = torch.rand(2, count, 32, 40)
        expected = images[:, :3] if count > 1 else images.repeat(1, 3, 1, 1)
        torch.testing.assert_close(net.colors(net.preprocess(images)), 255 * expected)
    assert spread((1, 2, 6), 1) == [3]
    assert spread((1, 2, 6), 5) == [1, 2, 6, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_what_shows_is_rgb_or_gray(count: int) -> None:
    image = torch.arange(count * 6, dtype=torch.uint8).view(count, 2, 3)
    expected = image[:3] if count >= 3 else torch.stack([image[0]] * 3)
    assert torch.equal(to_rgb(image), expected)
    assert torch.equal(to_rgb(image[None])[0], expected)


def test_other_channels_are_refused_in_words() -> None:
    net = create_model("fcn32s", "resnet18", 3, in_channels=4)
    for function in (net, net.preprocess):
        with pytest.raises(UserError, match=r"takes .*\(B, 4, H, W\), not .*\(1, 3, 32, 32\)"):
            function(torch.rand(1, 3, 32, 32))
    for count in (0, "4", 2.0, None):
        with pytest.raises(UserError, match="in_channels must be a whole number of at least 1, not"):
            create_model("fcn32s", "resnet18", 3, in_channels=count)  # type: ignore[arg-type]


def test_a_network_of_timm_that_takes_rgb_alone_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def only_rgb(name: str, in_chans: int = 3, **options: object) -> nn.Module:
        if in_chans != 3:
            raise AssertionError("RGB alone")
        return build(name, **options)

    monkeypatch.setattr(timm, "create_model", only_rgb)
    with pytest.raises(UserError, match="test_resnet cannot be used for images of 5 channels: RGB alone"):
        encoder("test_resnet", None, 5)
