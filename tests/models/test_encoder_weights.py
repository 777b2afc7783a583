"""Pretrained weights: what is loaded, what is said of it, and files that must be refused without running their code."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.encoders import create_encoder

Build = Callable[..., nn.Module]
Tensors = dict[str, Tensor]


def small_vgg(width: int = 8) -> nn.Module:
    """torchvision's VGG-11 with a narrow classifier under the same key names."""
    net = torchvision.models.VGG(torchvision.models.vgg11(weights=None).features, init_weights=False)
    layers = [nn.Linear(512 * 7 * 7, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, width), nn.ReLU(), nn.Dropout()]
    net.classifier = nn.Sequential(*layers, nn.Linear(width, 10))
    return net


@pytest.fixture(scope="module")
def vgg(filled: Build) -> nn.Module:
    return filled(small_vgg).eval()


@pytest.fixture(scope="module")
def resnet(filled: Build) -> nn.Module:
    return filled(torchvision.models.resnet18)


@pytest.fixture(autouse=True)
def _no_time_for_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision draws 100 M numbers for VGG's linear layers, which the encoder then leaves out."""
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda layer: None)
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, *arguments: tensor)


def saved(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def loaded(name: str, weights: str, **options: Any) -> nn.Module:
    return create_encoder(name, weights, **options)


def check_equal(encoder: nn.Module, tensors: Tensors, but: tuple[str, ...] = ()) -> None:
    """Every tensor of the encoder, but those named, is the file's."""
    for name, tensor in encoder.state_dict().items():
        assert name in but or torch.equal(tensor, tensors[name]), name


def message(name: str, weights: str, **options: Any) -> str:
    """What is said when the weights are refused."""
    with pytest.raises(UserError) as caught:
        loaded(name, weights, **options)
    return str(caught.value)


def test_pth_of_torchvision_fills_the_whole_encoder(
    resnet: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    encoder = loaded("resnet18", saved(resnet.state_dict(), tmp_path / "net.pth"))
    check_equal(encoder, resnet.state_dict())
    assert "resnet18: loaded 120 tensors from" in caplog.text
    assert "all that the encoder has" in caplog.text


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_tensors_may_lie_in_a_training_checkpoint(wrap: str, resnet: nn.Module, tmp_path: Path) -> None:
    content = {wrap: resnet.state_dict(), "epoch": 3, "lr": 0.1}
    check_equal(loaded("resnet18", saved(content, tmp_path / "net.pt")), resnet.state_dict())


def test_half_precision_safetensors_are_loaded_as_float32(vgg: nn.Module, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in vgg.features.state_dict(prefix="features.").items()}
    save_file(halves, tmp_path / "net.safetensors")
    encoder = loaded("vgg11", str(tmp_path / "net.safetensors"))
    check_equal(encoder, {name: tensor.float() for name, tensor in halves.items()})
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())


def test_dilated_resnet_takes_the_plain_ones_file(filled: Build, tmp_path: Path) -> None:
    tensors = filled(torchvision.models.resnet50).state_dict()
    path = saved(tensors, tmp_path / "net.pth")
    check_equal(loaded("resnet50", path, needs=("dilation",)), tensors)


def test_batch_counters_may_lack_as_in_old_files(resnet: nn.Module, tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in resnet.state_dict().items() if not key.endswith("num_batches_tracked")}
    encoder = loaded("resnet18", saved(tensors, tmp_path / "net.pth"))
    assert torch.equal(encoder.bn1.running_var, tensors["bn1.running_var"])


def test_classifier_becomes_fc6_and_fc7_with_torchvisions_outputs(vgg: nn.Module, tmp_path: Path) -> None:
    """At 224x224 the middle cell of pool5's 7x7 map sees the whole map, as the fully connected layer does."""
    path = saved(vgg.state_dict(), tmp_path / "net.pth")
    encoder = loaded("vgg11", path, needs=("classifier",), classifier_channels=8).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        hidden = vgg.classifier[:6](vgg.avgpool(vgg.features(images)).flatten(1))
        cells = encoder(images)[32]
    assert cells.shape == (1, 8, 7, 7)
    assert hidden.abs().max() > 0.01
    torch.testing.assert_close(cells[:, :, 3, 3], hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [8, 0])
def test_classifier_that_does_not_fit_or_is_not_there_is_reported_as_random(
    kept: int, vgg: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tensors = dict(list(vgg.state_dict().items())[: 16 + kept])
    path = saved(tensors, tmp_path / "net.pth")
    encoder = loaded("vgg11", path, needs=("classifier",), classifier_channels=6)
    fresh = {f"classifier.fc{layer}.{kind}" for layer in (6, 7) for kind in ("weight", "bias")}
    check_equal(encoder, tensors, but=tuple(fresh))
    assert "left at random: classifier.fc6, classifier.fc7" in caplog.text
    assert encoder.classifier.fc6.bias.eq(0).all()
    assert encoder.classifier.fc6.weight.std().item() == pytest.approx((2 / (512 * 49)) ** 0.5, rel=0.02)


def test_tensors_that_do_not_fit_are_named(resnet: nn.Module, tmp_path: Path) -> None:
    tensors = resnet.state_dict()
    del tensors["layer1.0.conv1.weight"]
    tensors["layer5.0.conv1.weight"] = torch.zeros(1)
    tensors["bn1.weight"] = torch.ones(32)
    text = message("resnet18", saved(tensors, tmp_path / "net.pth"))
    assert "net.pth does not fit resnet18" in text
    assert "missing: layer1.0.conv1.weight;" in text
    assert "unknown: layer5.0.conv1.weight;" in text
    assert "of another shape: bn1.weight (32,) instead of (64,)." in text


def test_another_networks_file_is_refused_with_a_few_names(resnet: nn.Module, tmp_path: Path) -> None:
    text = message("resnet34", saved(resnet.state_dict(), tmp_path / "net.pth"))
    assert "missing: layer1.2.bn1.bias, " in text
    assert " more" in text
    assert len(text) < 1000


def test_refused_file_leaves_the_encoder_as_it_was(resnet: nn.Module, tmp_path: Path, filled: Build) -> None:
    from segrefine.models.encoders.weights import load_encoder_weights

    encoder = filled(create_encoder, "resnet18")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in resnet.state_dict().items()} | {"surplus": torch.zeros(1)}
    with pytest.raises(UserError):
        load_encoder_weights(encoder, "resnet18", saved(tensors, tmp_path / "net.pth"))
    check_equal(encoder, before)


class Intruder:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pth", tmp_path / "trace"
    content = {"conv1.weight": Intruder(trace)}
    path.write_bytes(pickle.dumps(content, protocol=2)) if legacy else torch.save(content, path)
    text = message("resnet18", str(path))
    assert f"{path} contains objects other than tensors and plain values" in text
    assert "Loading it could execute code" in text
    assert not trace.exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
def test_truncated_file_is_refused(name: str, share: float, resnet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(resnet.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert f"{path} cannot be read" in message("resnet18", str(path))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net"])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html>\n<p>404</p>", b"\x00" * 100, b"\xff\xd8\xff\xe0 JFIF", b"a\n"])
def test_what_is_no_weights_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in message("resnet18", str(tmp_path / name))


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pth")
    assert message("resnet18", absent).startswith(
        f"backbone.weights={absent}: there is no such file. Known: imagenet, "
    )
    assert message("resnet18", "imagnet").endswith("Did you mean 'imagenet' or 'imagenet_v2'?")
    assert message("resnet18", str(tmp_path)).startswith(f"{tmp_path} is a folder. Name a file of weights")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "holds a list where a dictionary"),
        (torch.zeros(1), "holds a Tensor where a dictionary"),
        ({"conv1.weight": [1.0, 2.0]}, "'conv1.weight' is a list, not a tensor"),
        ({"state_dict": {"epoch": 3}}, "'epoch' is a int, not a tensor"),
        ({0: torch.zeros(1)}, "named by 0"),
        ({}, "missing: "),
    ],
)
def test_other_contents_are_refused_in_words(content: Any, words: str, tmp_path: Path) -> None:
    assert words in message("resnet18", saved(content, tmp_path / "net.pth"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's cache folder in a place of its own, and no network."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "file"), [("resnet18", "resnet18-f37072fd.pth"), ("vgg11_bn", "vgg11_bn-6002323d.pth")]
)
def test_without_a_network_one_message_says_what_to_download_where(name: str, file: str, cache: Path) -> None:
    text = message(name, "imagenet")
    assert text.startswith(f"backbone.weights=imagenet: {file} could not be fetched (")
    assert "no route to host" in text
    assert f"https://download.pytorch.org/models/{file}" in text
    assert str(cache) in text
    assert "\n" not in text
    assert "backbone.weights=PATH" in text


def test_imagenet_weights_are_taken_from_the_cache(cache: Path, resnet: nn.Module) -> None:
    torch.save(resnet.state_dict(), cache / "resnet18-f37072fd.pth")
    check_equal(loaded("resnet18", "imagenet"), resnet.state_dict())


def test_later_imagenet_weights_are_of_deep_resnets_alone(cache: Path, filled: Build) -> None:
    tensors = filled(torchvision.models.resnet50).state_dict()
    torch.save(tensors, cache / "resnet50-11ad3fa6.pth")
    check_equal(loaded("resnet50", "imagenet_v2"), tensors)
    assert "https://download.pytorch.org/models/resnet101-cd907fc2.pth" in message("resnet101", "imagenet_v2")
    for name in ("resnet18", "vgg16_bn"):
        assert message(name, "imagenet_v2") == (
            f"backbone.weights=imagenet_v2: torchvision has no such weights for {name}, only for resnet50, resnet101 "
            "and resnet152. Use backbone.weights=imagenet."
        )


def test_code_in_a_cached_file_is_not_run(cache: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Intruder(tmp_path / "trace")}, cache / "resnet18-f37072fd.pth")
    assert "resnet18-f37072fd.pth" in message("resnet18", "imagenet")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 truncated"])
def test_damaged_file_in_the_cache_is_refused_by_name(content: bytes, cache: Path) -> None:
    (cache / "resnet18-f37072fd.pth").write_bytes(content)
    text = message("resnet18", "imagenet")
    assert "resnet18-f37072fd.pth" in text
    assert str(cache) in text
    assert "\n" not in text
