"""`evaluate.py`: a checkpoint scored with its own data or other data, against scores worked out here."""

import copy
import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make
from conftest import TypeIn
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from segrefine.cli.options import GivenCheckpoint
from segrefine.compare.names import name_runs
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.core.options import CRFOptions
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.shapes.scenes import CLASSES
from segrefine.engine.evaluate import evaluate, warn_of_other_fold
from segrefine.io.tensors import fingerprint
from segrefine.metrics.scores import IMAGE_COUNTS
from segrefine.models.build import create_model
from segrefine.models.crf import refine
from segrefine.models.network import SegmentationModel
from segrefine.runs.per_image import write_per_image
from segrefine.runs.read import read_run
from segrefine.runs.summary import Summary
from segrefine.weights.checkpoint import KEY, describe, read_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def net() -> SegmentationModel:
    torch.manual_seed(0)
    net = create_model("fcn32s", "resnet18", 8, upsample="interpolate").eval()
    torch.nn.init.normal_(net.decoder.score["32"].weight)
    return net


@pytest.fixture(scope="module")
def checkpoint(net: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        options = ["model=fcn32s", "model.upsample=interpolate", "datamodule.val_size=3", "datamodule.seed=5", "seed=7"]
        cfg = compose("train", overrides=options)
    from omegaconf import OmegaConf

    content = {group: OmegaConf.to_container(cfg[group]) for group in ("model", "backbone", "datamodule", "recipe")}
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    about = describe(content | {"seed": 7}, CLASSES, voc_color_map(8))
    torch.save({"state_dict": tensors, KEY: about}, path)
    return path


def config(checkpoint: Path, *overrides: str) -> DictConfig:
    arguments = [f"checkpoint={checkpoint}", "trainer=cpu", "trainer.precision=32-true", *overrides]
    GivenCheckpoint().register(arguments)
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("evaluate", overrides=arguments)


def test_two_networks_have_one_fingerprint_only_if_their_weights_are_the_same(net: SegmentationModel) -> None:
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert fingerprint(other.state_dict()) == fingerprint(net.state_dict())
    with torch.no_grad():
        other.decoder.score["32"].bias[3] += 1e-6
    assert fingerprint(other.state_dict()) != fingerprint(net.state_dict())
    other = copy.deepcopy(net)
    next(module for module in other.modules() if isinstance(module, torch.nn.BatchNorm2d)).running_var += 1e-6
    assert fingerprint(other.state_dict()) != fingerprint(net.state_dict())


def test_scores_are_those_of_the_network_on_the_checkpoints_data(
    checkpoint: Path, net: SegmentationModel, tmp_path: Path
) -> None:
    summary = evaluate(config(checkpoint, "save_predictions=true"), tmp_path)
    assert Summary.read(tmp_path / "summary.json") == summary
    assert (summary.model, summary.split, summary.num_images, summary.seed) == ("fcn32s", "val", 3, 7)
    assert summary.weights == fingerprint(net.state_dict())
    confusion, confidences, right = torch.zeros(8, 8), [], []
    dataset = make(ShapesDataModule, val_size=3, seed=5).dataset("val")
    for index in range(3):
        item = dataset[index]
        with torch.no_grad():
            likely = net(net.preprocess(item["image"][None].float() / 255)).softmax(1)[0]
        confidence, prediction = likely.max(0)
        confidences.append(confidence.flatten())
        right.append((prediction == item["label"]).flatten().float())
        for truth, guess in zip(item["label"].flatten().tolist(), prediction.flatten().tolist(), strict=True):
            confusion[truth, guess] += 1
        saved = np.asarray(Image.open(tmp_path / f"predictions/val_{index:05d}_label.png"))
        assert (saved == prediction.numpy()).mean() > 0.999
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    expected = (confusion.diag() / union)[union > 0].mean().item()
    assert summary.mIoU == pytest.approx(expected, abs=2e-4)
    assert summary.pixel_acc == pytest.approx((confusion.diag().sum() / confusion.sum()).item(), abs=2e-4)
    confidence, correct = torch.cat(confidences), torch.cat(right)
    places = (confidence * 15).ceil()
    gaps = [(correct - confidence)[places == number].sum().abs() for number in range(1, 16)]
    assert summary.ece == pytest.approx(float(sum(gaps)) / len(confidence), abs=1e-4)
    with (tmp_path / "reliability.csv").open(newline="") as file:
        bins = list(csv.DictReader(file))
    assert (len(bins), bins[0]["above"], bins[-1]["up_to"]) == (15, "0.0000", "1.0000")
    assert sum(int(row["pixels"]) for row in bins) == confusion.sum()
    with Image.open(tmp_path / "reliability.png") as plot:
        assert len(np.unique(np.asarray(plot))) > 10
    assert (tmp_path / "predictions/legend.png").is_file()
    with (tmp_path / "per_image.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["val_00000", "val_00001", "val_00002"]


@pytest.mark.parametrize(
    ("group", "option", "value"),
    [("recipe", "center_updates", "all"), ("trainer", "max_epochs", 32), ("", "init_from", "pretrained.ckpt")],
)
def test_networks_that_were_trained_differently_are_told_apart(
    group: str, option: str, value: Any, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    trained = content[KEY]["config"]
    trained |= {"trainer": {"max_epochs": 3, "precision": "16-mixed"}, "init_from": None}
    torch.save(content, tmp_path / "one.ckpt")
    (trained[group] if group else trained)[option] = value
    torch.save(content, tmp_path / "other.ckpt")
    for name in ("one", "other"):
        evaluate(config(tmp_path / f"{name}.ckpt", "datamodule.val_size=1"), tmp_path / name)
    one, other = name_runs([read_run(tmp_path / name) for name in ("one", "other")]).labels
    assert f"{option}={Path(str(value)).stem}" in other
    assert f"{option}={Path(str(value)).stem}" not in one
    assert "precision" not in other  # both were scored in the same


def test_options_that_exclude_each_other_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.limit_val_batches=0\.001 leaves none of 1 batches"):
        evaluate(config(checkpoint, "trainer.limit_val_batches=0.001"), tmp_path)
    with pytest.raises(UserError, match="submission=voc takes the place of save_predictions=true"):
        evaluate(config(checkpoint, "save_predictions=true", "submission=voc"), tmp_path)


def test_views_change_the_scores_and_are_written_down(checkpoint: Path, tmp_path: Path) -> None:
    plain = evaluate(config(checkpoint), tmp_path)
    views = evaluate(config(checkpoint, "tta.scales=[0.5,1.0]", "tta.flip=true", "window=96"), tmp_path)
    assert plain.mIoU != views.mIoU
    assert views.tta == {"scales": [0.5, 1.0], "flip": True}
    assert views.window == 96


def test_the_crf_refines_what_the_views_say(checkpoint: Path, net: SegmentationModel, tmp_path: Path) -> None:
    arguments = [
        "datamodule.val_size=1",
        "post=crf",
        "crf.steps=2",
        "crf.stride=8",
        "crf.theta_beta=30",
        "tta.flip=true",
    ]
    summary = evaluate(config(checkpoint, *arguments, "save_predictions=true"), tmp_path)
    assert summary.post == "crf"
    item = make(ShapesDataModule, val_size=1, seed=5).dataset("val")[0]
    images, colors = net.preprocess(item["image"][None].float() / 255), item["image"][None].float()
    with torch.no_grad():
        mean = (net(images).softmax(1) + net(images.flip(-1)).flip(-1).softmax(1)) / 2
    expected = refine(mean.log(), colors, CRFOptions(steps=2, stride=8, theta_beta=30.0)).argmax(1)[0].numpy()
    saved = np.asarray(Image.open(tmp_path / "predictions/val_00000_label.png"))
    assert (saved == expected).mean() > 0.999
    assert (expected != mean.argmax(1)[0].numpy()).mean() > 0.01


def test_other_data_can_be_named(checkpoint: Path, tmp_path: Path) -> None:
    summary = evaluate(config(checkpoint, "datamodule=shapes", "datamodule.val_size=2"), tmp_path)
    assert summary.num_images == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tta.scales=[]"], "one or more positive, finite numbers"),
        (["crf.steps=3"], "crf.steps=3 has no effect without post=crf"),
        (["datamodule=camvid"], "has 8 classes.*but datamodule=camvid has 11"),
    ],
)
def test_mistakes_are_told_in_words(overrides: list[str], message: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(config(checkpoint, *overrides), tmp_path)


def test_a_file_of_weights_alone_needs_to_be_told_of_what(
    checkpoint: Path, net: SegmentationModel, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    data = ["datamodule=shapes", "datamodule.val_size=3", "datamodule.seed=5"]
    with pytest.raises(UserError, match=r"does not name its data set. Give datamodule=NAME"):
        evaluate(config(path), tmp_path)
    with pytest.raises(UserError, match=r"holds weights alone\. Say for which network: model=NAME backbone=NAME"):
        evaluate(config(path, *data), tmp_path)
    network = ["model=fcn32s", "model.upsample=interpolate", "backbone=resnet18"]
    (tmp_path / "told").mkdir()
    told = evaluate(config(path, *data, *network), tmp_path / "told")
    (tmp_path / "known").mkdir()
    assert told.per_class == evaluate(config(checkpoint), tmp_path / "known").per_class
    assert told.seed is None


def test_another_fold_than_the_one_trained_on_is_told(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    of_run = read_checkpoint(checkpoint)
    data = {"name": "camvid", "fold": 0, "folds": 4}
    trained = replace(of_run, config=of_run.config | {"datamodule": data})
    for given in (data, data | {"name": "folder", "fold": 1}):
        warn_of_other_fold(trained, given)
    warn_of_other_fold(of_run, {"name": "shapes"})  # of a version before folds
    assert not caplog.messages
    for given in (data | {"fold": 1}, {"name": "camvid"}):
        warn_of_other_fold(trained, given)
    assert [message.count("was trained with datamodule.fold=0 and folds=4") for message in caplog.messages] == [1, 1]


def test_ids_and_class_names_of_any_kind_come_back_from_per_image_csv(tmp_path: Path) -> None:
    ids = ["a,b", 'say "a"', "two\nlines", "=1+1", " spaced ", "ü", os.fsdecode(b"latin-\xe9"), ""]
    classes = ["road, wet", 'the "other"', "line\nbreak"]
    counts = np.arange(len(ids) * len(IMAGE_COUNTS) * 3).reshape(len(ids), len(IMAGE_COUNTS), 3)
    write_per_image(tmp_path / "per_image.csv", ids, counts, classes)
    path = tmp_path / "per_image.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", *(f"{count}:{name}" for count in IMAGE_COUNTS for name in classes)]
    assert [row[0] for row in rows] == ids
    assert np.array_equal(np.array([row[1:] for row in rows], int).reshape(counts.shape), counts)


def test_a_checkpoint_is_read_once(checkpoint: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the options that it brings, and for its weights."""
    load, read = torch.load, []
    monkeypatch.setattr(torch, "load", lambda path, *rest, **options: read.append(path) or load(path, *rest, **options))
    result = type_in("evaluate.py", f"checkpoint={checkpoint}", "trainer=debug", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert len(read) == 1
