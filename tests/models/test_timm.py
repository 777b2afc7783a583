"""Encoders of timm against timm's own networks; where their cells look; words of refusal. All weights are random."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.encoders import create_encoder
from segrefine.models.encoders.timm import TimmEncoder, find_layout

TINY = ("test_resnet", "test_convnext", "mobilenetv3_small_050")


def refusal(name: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        create_encoder("timm", timm_name=name, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(64, 96), (33, 70)])
def test_maps_are_timms_of_the_image_padded_to_whole_strides(name: str, size: tuple[int, int]) -> None:
    encoder = create_encoder("timm", timm_name=name, needs=("stride2",)).eval()
    reference = timm.create_model(name, features_only=True).eval()
    reference.load_state_dict(encoder.net.state_dict())
    images = torch.randn(2, 3, *size)
    padded = F.pad(images, (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate")
    with torch.no_grad():
        features, expected = encoder(images), reference(padded)
    assert list(features) == list(encoder.channels) == reference.feature_info.reduction()
    for (stride, found), tensor in zip(features.items(), expected, strict=True):
        assert found.shape == (2, encoder.channels[stride], *(-(-side // 32) * 32 // stride for side in size))
        assert torch.equal(found, tensor)


def test_a_map_with_channels_last_comes_with_channels_first() -> None:
    name = "swin_tiny_patch4_window7_224"
    with torch.device("meta"):
        encoder = create_encoder("timm", timm_name=name)
        features = encoder(torch.empty(1, 3, 45, 100))
    assert {stride: tuple(found.shape[1:]) for stride, found in features.items()} == {
        4: (96, 16, 32),
        8: (192, 8, 16),
        16: (384, 4, 8),
        32: (768, 2, 4),
    }


@pytest.mark.parametrize(
    ("name", "centers"),
    [
        ("swin_tiny_patch4_window7_224", [1.5, 3.5, 7.5, 15.5]),  # patches, merged by reshaping
        ("pvt_v2_b0", [0, 0, 0, 0]),  # odd kernels, and attention to maps of stride 32 throughout
        ("mvitv2_tiny", [0, 0, 0, 0]),  # odd kernels, and attention from coarser to finer maps
        ("tf_efficientnet_b0", [3, 7, 15, 31]),  # padded behind alone, and gates
        ("hrnet_w18_small", [0, 0, 0, 0]),  # odd kernels, and maps that come from coarser ones
        ("test_resnet", [0, 1, 3, 7]),  # the mean of a 3x3 convolution and a 2x2 average, of stride 2 both
    ],
)
def test_centers_follow_from_the_layers(name: str, centers: list[float]) -> None:
    assert [find_layout(name).centers[stride] for stride in (4, 8, 16, 32)] == centers


def test_the_input_is_that_of_the_networks_own_weights() -> None:
    config = timm.get_pretrained_cfg("test_convnext")
    net = create_model("refinenet_lw", "timm", 3, timm_name="test_convnext")
    images = torch.rand(1, 3, 40, 33)
    expected = (images - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    torch.testing.assert_close(net.preprocess(images), expected)
    assert config.mean == (0.5, 0.5, 0.5)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    assert refusal("convnext_tyni").startswith(
        "backbone.timm_name=convnext_tyni is not a network of timm. Did you mean 'convnext_tiny'"
    )
    for name in ("", "nonsense", "hf-hub:timm/resnet18", "local-dir:/tmp", "../x"):
        assert refusal(name) == (
            f"backbone.timm_name={name} is not a network of timm. Python's timm.list_models() names all."
        )
    assert "Invalid pretrained tag (nope)" in refusal("test_resnet.nope")


@pytest.mark.parametrize(
    ("name", "needs", "message"),
    [
        ("test_vit", (), "gives maps at strides [16]. It lacks 4, 8, 32, and decoders take 4, 8, 16 and 32."),
        ("visformer_tiny", (), "gives maps at strides [8, 16, 32]. It lacks 4, and"),
        ("inception_v3", (), "cannot be used: its map at stride 2 of 96 x 160 pixels has 45 x 77 cells."),
        ("coatnet_0_224", (), "cannot be used: it does not take images of any size, such as 96 x 160 pixels ("),
        ("pvt_v2_b0", ("stride16",), "cannot be dilated to stride 16, which the model asks for: "),
    ],
)
def test_networks_that_do_not_give_what_decoders_take_say_what_they_lack(
    name: str, needs: tuple[str, ...], message: str
) -> None:
    assert f"backbone.timm_name={name} {message}" in refusal(name, needs=needs)


STAGES = {
    "test_resnet": [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]],
    "test_convnext": [["stem_0", "stem_1"], *([f"stages_{number}"] for number in range(4))],
    "mobilenetv2_035": [
        *(["conv_stem", "bn1", "blocks.0"], ["blocks.1"], ["blocks.2"]),
        *(["blocks.3", "blocks.4"], ["blocks.5", "blocks.6"]),
    ],
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_frozen_stages_are_the_first_ones_whole(name: str, count: int) -> None:
    with torch.device("meta"):
        encoder = create_encoder("timm", timm_name=name, frozen_stages=count)
    frozen = {key for key, parameter in encoder.net.named_parameters() if not parameter.requires_grad}
    expected = tuple(f"{layer}." for stage in STAGES[name][:count] for layer in stage)
    assert frozen == {key for key, _ in encoder.net.named_parameters() if key.startswith(expected)}
    assert len(frozen) < len(list(encoder.parameters())) or count == 5


def test_stages_that_do_not_follow_each_other_are_not_frozen() -> None:
    with torch.device("meta"):
        message = refusal("hrnet_w18_small", frozen_stages=1)
        encoder = create_encoder("timm", timm_name="hrnet_w18_small")
    assert "frozen_stages=1: the stages of hrnet_w18_small do not follow each other" in message
    held = {id(weight) for stage in encoder.stages for layer in stage for weight in layer.parameters()}
    assert held == {id(weight) for weight in encoder.parameters()}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "mobilenetv3_small_050"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_timms_fills_the_whole_encoder(name: str, suffix: str, tmp_path: Path) -> None:
    whole, path = timm.create_model(name), tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(whole.state_dict(), path)
    encoder = create_encoder("timm", str(path), timm_name=name).eval()
    maps = whole.eval().forward_intermediates(images := torch.randn(1, 3, 64, 64), intermediates_only=True)
    with torch.no_grad():
        features = encoder(images)
    expected = {64 // tensor.shape[-1]: tensor for tensor in maps}
    for stride in (8, 16):  # at others forward_intermediates may look at another layer
        torch.testing.assert_close(features[stride], expected[stride])


def test_files_that_do_not_fit_are_refused_by_their_tensors(tmp_path: Path) -> None:
    tensors = timm.create_model("test_resnet").state_dict()
    del tensors["layer1.0.conv1.weight"]
    tensors |= {"layer9.weight": torch.zeros(1), "bn1.weight": torch.ones(7)}
    torch.save(tensors, tmp_path / "net.pth")
    message = refusal("test_resnet", weights=str(tmp_path / "net.pth"))
    assert message.endswith(
        "net.pth does not fit timm's test_resnet. missing: layer1.0.conv1.weight; unknown: layer9.weight; "
        f"of another shape: bn1.weight (7,) instead of {tuple(timm.create_model('test_resnet').bn1.weight.shape)}."
    )
    assert "backbone.weights=absent.pth: there is no such file." in refusal("test_resnet", weights="absent.pth")
    assert "For timm's, use backbone.weights=pretrained" in refusal("test_resnet", weights="imagenet")


def test_weights_come_from_the_hub_or_one_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no route to host\nand more")

    def fetched(*arguments: object, **options: object) -> object:
        return timm.create_model("test_resnet").state_dict() | {"bn1.weight": torch.full((32,), 7.0)}

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", fetched)
    assert create_encoder("timm", "pretrained", timm_name="test_resnet").net.bn1.weight.eq(7).all()
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", offline)
    message = refusal("test_resnet", weights="pretrained")
    assert message.startswith("backbone.weights=pretrained: weights of test_resnet could not be fetched (no route to")
    assert "backbone.weights=PATH" in message
    assert "\n" not in message


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_layout.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal("test_resnet") == 'backbone=timm needs packages that are not installed: pip install -e ".[timm]".'


def test_checkpoints_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is built with random weights and filled from the checkpoint."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("asked for weights"))
    encoder = TimmEncoder("test_resnet")
    assert [name.split(".")[0] for name in encoder.state_dict()][:1] == ["net"]
    TimmEncoder("test_resnet").load_state_dict(encoder.state_dict())
