"""The average of the weights, and the end of a training that gets no better."""

import csv
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make, make_recipe
from hydra import compose, initialize_config_dir
from lightning import Callback
from omegaconf import DictConfig

from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.engine.callbacks.early_stopping import Patience
from segrefine.engine.callbacks.progress import StepLog
from segrefine.engine.recipe import Recipe
from segrefine.engine.train import train
from segrefine.metrics.segmentation import SegmentationMetrics
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("narrow")

TINY = [
    *("trainer=cpu", "trainer.precision=32-true", "recipe.schedule.warmup_steps=0", "logger=csv", "model=fcn32s"),
    *("datamodule.train_size=8", "datamodule.val_size=3", "datamodule.test_size=2"),
    *("datamodule.batch_size=2", "datamodule.crop_size=64", "trainer.max_epochs=2"),
]


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("train", overrides=[*TINY, *overrides])


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["val/mIoU"]]


def test_checkpoints_hold_the_average_of_the_weights_of_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batch norm's statistics, but nothing that is constant moves; what is trained lies beside it."""
    seen: list[dict[str, torch.Tensor]] = []

    def record(callback: Callback, trainer: Any, module: Any, *rest: Any) -> None:
        seen.append({name: tensor.double().clone() for name, tensor in module.net.state_dict().items()})

    monkeypatch.setattr(StepLog, "on_train_batch_end", record)
    train(config("recipe.ema=0.6"), tmp_path)
    assert len(seen) == 8
    average = dict(seen[0])
    for number, weights in enumerate(seen[1:], 1):
        decay = min(0.6, (1 + number) / (10 + number))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    checkpoint = last(tmp_path)
    for name, tensor in average.items():
        if "num_batches_tracked" not in name:
            found = checkpoint["state_dict"][f"net.{name}"]
            torch.testing.assert_close(found.double(), tensor, rtol=1e-5, atol=1e-7)
            assert torch.equal(checkpoint["current_model_state"][f"net.{name}"].double(), seen[-1][name])
    first = next(iter(checkpoint["optimizer_states"]))["state"]
    assert {int(state["step"]) for state in first.values()} == {8}
    net = load_model(tmp_path / "checkpoints/last.ckpt")
    assert torch.equal(net.mean.double(), seen[0]["mean"])
    metrics, scenes = SegmentationMetrics(8), make(ShapesDataModule, val_size=3).dataset("val")
    for item in (scenes[index] for index in range(3)):
        metrics.update(
            TestTimeAugmentation(net).classes(net.preprocess(item["image"][None] / 255)), item["label"][None]
        )
    assert float(rows(tmp_path)[-1]["val/mIoU"]) == pytest.approx(float(metrics.compute()["mIoU"]), abs=1e-6)


@pytest.mark.parametrize("decay", [0, 1, 1.5, "fast"])
def test_an_average_that_cannot_be_is_refused(decay: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"recipe\.ema={decay} should be"):
        train(config(f"recipe.ema={decay}"), tmp_path)


def test_a_recipe_from_before_the_average_has_none() -> None:
    options = asdict(make_recipe())
    del options["ema"]
    assert Recipe.from_config(options).ema is None


def test_a_training_that_gets_no_better_ends_and_stays_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whose scores stay the same, since nothing moves: the first is the best, and the next two are no better."""
    caplog.set_level(logging.INFO)
    still = ["recipe.optimizer=sgd", "recipe.lr=1e-30", "recipe.frozen_norm=true", "trainer.max_epochs=7"]
    options = [*still, "recipe.progressive_resizing=0", "trainer.early_stopping=2"]
    train(config(*options), tmp_path)
    assert last(tmp_path)["global_step"] == 3 * 4
    assert "Stopped by trainer.early_stopping=2 after 12 steps: val/mIoU was at most" in caplog.text
    content = last(tmp_path)
    train(config(*options, f"ckpt_path={tmp_path}/checkpoints/last.ckpt"), tmp_path)  # as if killed in the final test
    assert last(tmp_path)["global_step"] == 12
    assert content["callbacks"].keys() == last(tmp_path)["callbacks"].keys()


def test_the_patience_given_now_holds() -> None:
    before, now = Patience(2), Patience(10)
    before.wait_count = 2
    now.load_state_dict(before.state_dict())
    assert (now.patience, now.wait_count) == (10, 2)


def test_validations_do_not_count_while_images_are_halved(tmp_path: Path) -> None:
    """Of 6 epochs 4 are at half size; nothing moves, so the second validation after them is one too many."""
    still = ["recipe.optimizer=sgd", "recipe.lr=1e-30", "recipe.frozen_norm=true", "recipe.progressive_resizing=0.6"]
    train(config(*still, "trainer.early_stopping=1", "trainer.max_epochs=6"), tmp_path)
    assert last(tmp_path)["global_step"] == 5 * 4


def test_a_patience_of_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.early_stopping=0 should be at least 1 or null"):
        train(config("trainer.early_stopping=0"), tmp_path)
