"""Checkpoints: there and back, and files that do not fit, named tensor by tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import segrefine
from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import KEY, Checkpoint, describe, load_weights, read_checkpoint

MODEL = {"name": "fcn8s", "skip_scales": {16: 0.01}, "skips": [32, 16]}
CONFIG = {"model": MODEL, "seed": 3, "weights": None, "compile": True}
CLASSES = ["road", "sky", "Gehweg für alle"]
PALETTE = np.array([[0, 0, 0], [128, 64, 255], [1, 2, 3]], np.uint8)


def network(seed: int = 0, num_classes: int = 3, **options: Any) -> SegmentationModel:
    torch.manual_seed(seed)
    return create_model("fcn16s", "resnet18", num_classes, **options)


@pytest.fixture(scope="module")
def net() -> SegmentationModel:
    return network()


def lightning(net: SegmentationModel) -> dict[str, Any]:
    """What Lightning saves: the module's tensors, loops, optimizer and callbacks, and our description."""
    return {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"net.{name}": tensor for name, tensor in net.state_dict().items()},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "best_model_path": "best.ckpt"}},
        KEY: describe(CONFIG, CLASSES, PALETTE),
    }


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def same(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    equal = [torch.equal(tensor, others[name]) for name, tensor in tensors.items() if name in others]
    return tensors.keys() == others.keys() and all(equal)


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_checkpoint_tells_of_its_run_what_was_written(net: SegmentationModel, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(lightning(net), tmp_path / "last.ckpt"))
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.config == CONFIG
    assert checkpoint.classes == CLASSES
    assert checkpoint.palette.dtype == np.uint8
    np.testing.assert_array_equal(checkpoint.palette, PALETTE)
    assert same(checkpoint.tensors, net.state_dict())


def test_weights_go_from_a_checkpoint_into_a_new_network(net: SegmentationModel, tmp_path: Path) -> None:
    path, other = saved(lightning(net), tmp_path / "last.ckpt"), network(seed=1)
    assert not same(other.state_dict(), net.state_dict())
    segrefine.load_weights(other, str(path))
    assert same(other.state_dict(), net.state_dict())
    images = torch.randn(1, 3, 40, 50)
    assert torch.equal(other.eval()(images), net.eval()(images))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bare_state_dict_is_taken_too(suffix: str, net: SegmentationModel, tmp_path: Path) -> None:
    path, other = tmp_path / f"net{suffix}", network(seed=1)
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    load_weights(other, path)
    assert same(other.state_dict(), net.state_dict())


def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(net: SegmentationModel, tmp_path: Path) -> None:
    content = lightning(net)
    tensors = content["state_dict"]
    del tensors["net.encoder.bn1.running_mean"]
    tensors["net.decoder.score.8.weight"] = torch.zeros(3, 128, 1, 1)
    tensors["net.decoder.score.32.bias"] = torch.zeros(4)
    other = network(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    text = refusal(load_weights, other, saved(content, tmp_path / "last.ckpt"))
    assert text.startswith(f"{tmp_path / 'last.ckpt'} does not fit the network.")
    assert "missing: encoder.bn1.running_mean;" in text
    assert "unknown: decoder.score.8.weight;" in text
    assert "of another shape: decoder.score.32.bias (4,) instead of (3,)." in text
    assert same(other.state_dict(), before)


def test_other_class_counts_and_upsamplings_do_not_fit(net: SegmentationModel, tmp_path: Path) -> None:
    path = saved(lightning(net), tmp_path / "last.ckpt")
    assert "decoder.score.16.bias (3,) instead of (4,)" in refusal(load_weights, network(num_classes=4), path)
    interpolated = refusal(load_weights, network(upsample="interpolate"), path)
    assert "unknown: decoder.to_pixels.weight, decoder.upsample.32.weight." in interpolated


def test_files_that_are_no_checkpoint_are_refused_in_words(net: SegmentationModel, tmp_path: Path) -> None:
    empty = saved({}, tmp_path / "empty.pth")
    assert "does not fit the network. missing: decoder." in refusal(load_weights, net, empty)
    absent = tmp_path / "absent.ckpt"
    for change in ({"config": 3}, {"classes": None}, {"palette": [[1, 2], [3]]}, {"palette": [[300, 0, 0]] * 3}):
        content = lightning(net)
        content[KEY] |= change
        damaged = saved(content, tmp_path / "damaged.ckpt")
        assert f"{damaged} is damaged: its description of the run" in refusal(read_checkpoint, damaged)
    for call in ((read_checkpoint, absent), (load_weights, net, absent)):
        assert f"There is no weights file {absent}" in refusal(*call)


def test_weights_alone_are_read_without_what_they_do_not_say(net: SegmentationModel, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(net.state_dict(), tmp_path / "net.pth"))
    assert (checkpoint.config, checkpoint.classes, len(checkpoint.palette)) == ({}, [], 0)
    assert same(checkpoint.tensors, net.state_dict())


def test_truncated_checkpoint_is_refused(net: SegmentationModel, tmp_path: Path) -> None:
    path = saved(lightning(net), tmp_path / "last.ckpt")
    path.write_bytes(path.read_bytes()[:100_000])
    assert f"{path} cannot be read" in refusal(read_checkpoint, path)


def test_a_file_of_something_else_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "notes.ckpt").write_text("hello")
    assert "notes.ckpt holds no tensors. It should be" in refusal(read_checkpoint, tmp_path / "notes.ckpt")


def test_description_is_in_plain_containers() -> None:
    assert describe(CONFIG, tuple(CLASSES), PALETTE) == {  # type: ignore[arg-type]
        "config": CONFIG,
        "classes": CLASSES,
        "palette": [[0, 0, 0], [128, 64, 255], [1, 2, 3]],
    }
