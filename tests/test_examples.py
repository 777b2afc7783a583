"""The examples run as they say of themselves."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TypeIn
from PIL import Image

from segrefine.core.registry import DATAMODULES, DECODERS
from segrefine.models.build import create_model
from segrefine.weights.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("narrow")

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["trainer=debug", "logger=none", "hydra.run.dir=run", "datamodule.batch_size=2", "datamodule.crop_size=64"]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An example as a module of the user's, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("SEGREFINE_PLUGINS", request.param)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    for registry in (DECODERS, DATAMODULES):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    return request.param


@pytest.mark.parametrize("plugin", ["custom_decoder"], indirect=True)
@pytest.mark.parametrize("backbone", ["resnet18", "vgg11_bn"])
def test_the_decoder_scores_where_things_are_and_learns(plugin: str, backbone: str) -> None:
    net = create_model("hypercolumn", backbone, 3, width=8)
    images = torch.randn(2, 3, 45, 67, requires_grad=True)
    logits = net(images)
    assert logits.shape == (2, 3, 45, 67)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("plugin", ["custom_decoder"], indirect=True)
def test_the_decoder_trains_and_its_checkpoint_segments_a_photograph(
    plugin: str, tmp_path: Path, type_in: TypeIn, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["datamodule.train_size=4", "datamodule.val_size=2", "datamodule.test_size=2"]
    result = type_in("train.py", "model=hypercolumn", "model.width=8", *SMALL, *sizes)
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 70, 3), np.uint8)).save(tmp_path / "photo.png")
    main = runpy.run_path(str(EXAMPLES / "predict_from_python.py"))["main"]
    main(str(checkpoint), str(tmp_path / "photo.png"), str(tmp_path / "labels.png"))
    net = load_model(checkpoint)
    shares = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines()[-8:])
    assert list(shares) == net.classes
    colors = np.unique(np.asarray(Image.open(tmp_path / "labels.png")).reshape(-1, 3), axis=0)
    assert {tuple(color) for color in colors.tolist()} <= {tuple(color) for color in net.palette.tolist()}


@pytest.mark.parametrize("plugin", ["own_dataset"], indirect=True)
def test_the_data_set_is_checked_and_trained_on(plugin: str, tmp_path: Path, type_in: TypeIn) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for index in range(10):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / f"data/{index}.jpg")
        Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8)).save(tmp_path / f"data/{index}_mask.png")
    checked = type_in("segrefine.data", "check", "datamodule=rivers", "datamodule.root=data")
    assert checked.returncode == 0, checked.stderr
    assert "train: 8 good images" in checked.stdout
    assert "1 water" in checked.stdout
    options = ["datamodule=rivers", "datamodule.root=data", "datamodule.num_workers=0"]
    result = type_in("train.py", "model=fcn32s", *options, *SMALL)
    assert result.returncode == 0, result.stderr
    assert load_model(tmp_path / "run/checkpoints/best.ckpt").classes == ["land", "water"]
