"""Sizes of images that a run meets: small ones, several, and a single cell for batch norm."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from builders import make_recipe, saved_pair
from conftest import TypeIn
from PIL import Image

from segrefine.core.errors import UserError
from segrefine.data.build import create_datamodule
from segrefine.engine.train import _check_batch_norm
from segrefine.models.build import create_model

pytestmark = pytest.mark.usefixtures("narrow")

SIZES = [(40, 48), (20, 30), (33, 5), (40, 48), (64, 33)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index, size in enumerate(SIZES):
            image, mask = rng.integers(0, 255, (*size, 3), np.uint8), rng.integers(0, 3, size, np.uint8)
            saved_pair(tmp_path / "data", split, f"{index}", image, mask)
    return tmp_path / "data"


def test_images_of_any_size_are_trained_on_and_scored(data: Path, tmp_path: Path, type_in: TypeIn) -> None:
    options = ["datamodule=folder", f"datamodule.root={data}", "datamodule.classes=[a,b,c]", "datamodule.num_workers=0"]
    options += ["datamodule.crop_size=null", "datamodule.augment.scale=null", "datamodule.eval_batch_size=3"]
    options += ["model=fcn32s", "model.upsample=interpolate", "logger=none", "trainer.max_epochs=1"]
    options += ["trainer=cpu", "trainer.precision=32-true"]
    refused = type_in("train.py", *options, "datamodule.batch_size=2", "hydra.run.dir=run")
    assert refused.returncode == 2
    assert "error: The training images differ in size" in refused.stderr
    assert not (tmp_path / "run/config.yaml").exists()

    vgg = ["backbone=vgg11", "backbone.classifier_channels=16"]
    trained = type_in("train.py", *options, "datamodule.batch_size=1", *vgg, "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count("The images of val differ in size, so they are scored one by one") == 1
    words = ["checkpoint=run/checkpoints/best.ckpt", "trainer=cpu", "trainer.precision=32-true"]
    one = type_in("evaluate.py", *words, "datamodule.eval_batch_size=1", "tta.scales=[0.5,1.0]", "hydra.run.dir=one")
    assert one.returncode == 0, one.stderr
    again = type_in("evaluate.py", *words, "hydra.run.dir=again")
    assert "scored one by one, not 3 at a time" in again.stderr
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "again")]
    assert summaries[0]["mIoU"] == summaries[1]["mIoU"]
    with (tmp_path / "run/per_image.csv").open(newline="") as file:
        pixels = [sum(int(row[f"truth:{name}"]) for name in "abc") for row in csv.DictReader(file)]
    assert pixels == [height * width for height, width in SIZES]
    shapes = [np.asarray(Image.open(tmp_path / f"run/predictions/{index}_label.png")).shape for index in range(5)]
    assert shapes == SIZES


@pytest.mark.parametrize(
    ("size", "batch_size", "options", "fits"),
    [
        (32, 1, {}, False),
        (20, 1, {}, False),  # becomes 32
        (64, 1, {}, False),  # half of it in the first half of the training
        (65, 1, {}, True),
        (64, 1, {"progressive_resizing": 0.0}, True),
        (32, 2, {}, True),
        (32, 1, {"frozen_norm": True}, True),
    ],
)
def test_a_single_value_for_batch_norm_is_refused(size: int, batch_size: int, options: dict, fits: bool) -> None:
    datamodule = create_datamodule("shapes", crop_size=size, batch_size=batch_size, train_size=4)
    net, recipe = create_model("fcn32s", "resnet18", 3), make_recipe(**options)
    if fits:
        _check_batch_norm(net, recipe, datamodule)
    else:
        with pytest.raises(
            UserError, match=rf"batch_size=1 with images of {size}x{size}, which .* leaves batch norm one value"
        ):
            _check_batch_norm(net, recipe, datamodule)


def test_it_is_refused_before_training(tmp_path: Path, type_in: TypeIn) -> None:
    options = ["trainer=debug", "logger=none", "datamodule.train_size=4", "hydra.run.dir=run"]
    result = type_in("train.py", *options, "datamodule.batch_size=1", "datamodule.crop_size=32")
    assert result.returncode == 2
    assert result.stderr.count("leaves batch norm one value per channel") == 1
    assert not (tmp_path / "run/config.yaml").exists()
