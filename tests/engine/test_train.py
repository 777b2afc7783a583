"""A run from config to folder: what it leaves behind, that it learns, that it goes on."""

import csv
import errno
import fcntl
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from builders import make, make_recipe
from filelock import FileLock
from given import loss_of
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from segrefine.cli.command import check_folder
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.engine.module import SegmentationModule
from segrefine.engine.recipe import Recipe
from segrefine.engine.resume import refuse_other_run
from segrefine.engine.train import train
from segrefine.io.tensors import fingerprint
from segrefine.metrics.scores import IMAGE_COUNTS
from segrefine.models.build import create_model
from segrefine.models.logits import Logits
from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary
from segrefine.weights.checkpoint import KEY, load_model, load_weights, read_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")

TINY = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "recipe.schedule.warmup_steps=0",
    "logger=csv",
    "datamodule.train_size=8",
    "datamodule.val_size=3",
    "datamodule.test_size=2",
    "datamodule.batch_size=4",
    "datamodule.crop_size=64",
]


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("train", overrides=[*TINY, *overrides])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The folder and summary of a tiny run."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(config(), folder)


@pytest.mark.parametrize(("scaled", "rate"), [pytest.param("false", 0.01, marks=pytest.mark.slow), ("true", 0.02)])
def test_the_rate_grows_with_the_batches_of_a_step_where_asked_for(scaled: str, rate: float, tmp_path: Path) -> None:
    options = ["recipe.lr=0.01", f"recipe.scale_lr={scaled}", "trainer.limit_test_batches=1"]
    train(config(*options, "trainer.max_steps=1", "trainer.accumulate_grad_batches=2"), tmp_path)
    assert float(rows(tmp_path)[0]["lr"]) == pytest.approx(rate)


def test_a_run_leaves_the_whole_folder(finished: tuple[Path, Summary]) -> None:
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        *("config.yaml", "environment.txt", "metrics.csv", "summary.json", "per_image.csv"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/last.previous.ckpt"),
        *("panels/step_0000002.png", "panels/step_0000004.png"),
        *("predictions/test_00000_label.png", "predictions/test_00001_label.png", ".lock"),
    } == names


def test_the_predictions_are_those_of_the_best_checkpoint(finished: tuple[Path, Summary]) -> None:
    folder, summary = finished
    net = create_model("fcn8s", "resnet18", 8)
    load_weights(net, folder / "checkpoints/best.ckpt")
    assert summary.weights == fingerprint(net.state_dict())
    datamodule = make(ShapesDataModule, train_size=8, val_size=3, test_size=2)
    datamodule.setup()
    hits = pixels = 0
    for example in datamodule.dataset("test"):
        written = np.asarray(Image.open(folder / f"predictions/{example['id']}_label.png"))
        with torch.no_grad():
            logits = net.eval()(net.preprocess(torch.as_tensor(example["image"])[None] / 255))
        assert np.array_equal(written, logits[0].argmax(0).numpy())
        hits += int((written == np.asarray(example["label"])).sum())
        pixels += written.size
    assert summary.pixel_acc == pytest.approx(hits / pixels)


def test_the_best_score_on_val_is_in_the_summary(finished: tuple[Path, Summary]) -> None:
    """Of the checkpoint that was scored; a sweeper optimizes it."""
    logged = [float(row["val/mIoU"]) for row in rows(finished[0]) if row["val/mIoU"]]
    assert finished[1].val_mIoU == pytest.approx(max(logged), abs=1e-6)


def test_two_processes_do_not_work_on_one_run(tmp_path: Path, at_work: Callable[[Path], None]) -> None:
    again = pytest.raises(UserError, match=r"Another process is working on the run in .* Wait until it ends")
    with RunFolder(tmp_path).alone(), again:
        RunFolder(tmp_path).alone().__enter__()
    at_work(tmp_path)
    with pytest.raises(UserError, match="Another process is working"):
        RunFolder(tmp_path).alone().__enter__()


def test_a_process_that_opened_the_lock_before_the_run_ended_keeps_a_third_out(tmp_path: Path) -> None:
    """It waits while the first is at work, and gets the lock when that ends."""
    with RunFolder(tmp_path).alone():
        second = (tmp_path / ".lock").open()
    with second:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UserError, match="Another process is working"):
            RunFolder(tmp_path).alone().__enter__()
    with RunFolder(tmp_path).alone():
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_told_and_used(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with RunFolder(tmp_path).alone():
        pass
    assert f"{tmp_path} cannot be locked ({error})" in caplog.text


def test_the_summary_has_every_entry_of_its_contract(finished: tuple[Path, Summary]) -> None:
    folder, returned = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == asdict(returned)
    assert Summary.read(folder / "summary.json") == returned
    named = {
        "model": "fcn8s",
        "backbone": "resnet18",
        "datamodule": "shapes",
        "split": "test",
        "num_images": 2,
        "seed": 0,
    }
    assert named.items() <= summary.items()
    assert summary["params"] == sum(
        parameter.numel() for parameter in create_model("fcn8s", "resnet18", 8).parameters()
    )
    assert summary["flops_size"] == [128, 128]
    for score in ("mIoU", "pixel_acc", "mean_acc", "fwIoU", "boundary_IoU"):
        assert 0 <= summary[score] <= 1
    assert min(summary[cost] for cost in ("flops", "train_seconds", "images_per_second", "peak_memory_bytes")) > 0
    present = [iou for iou in summary["per_class"].values() if iou is not None]
    assert list(summary["per_class"]) == ["background", "disc", "ring", "wire", "square", "triangle", "cross", "star"]
    assert math.isclose(summary["mIoU"], sum(present) / len(present))


def test_the_rows_per_image_add_up_to_the_summary(finished: tuple[Path, Summary]) -> None:
    folder, summary = finished
    with (folder / "per_image.csv").open(newline="") as file:
        images = list(csv.DictReader(file))
    assert [row["image"] for row in images] == ["test_00000", "test_00001"]
    assert len(images[0]) == 1 + len(IMAGE_COUNTS) * 8
    hits, truth, predicted = (
        sum(int(row[f"{count}:background"]) for row in images) for count in ("intersection", "truth", "prediction")
    )
    assert math.isclose(summary.per_class["background"], hits / (truth + predicted - hits))
    right = sum(int(row[name]) for row in images for name in row if name.startswith("intersection:"))
    pixels = sum(int(row[name]) for row in images for name in row if name.startswith("truth:"))
    assert pixels == 2 * 128 * 128
    assert math.isclose(summary.pixel_acc, right / pixels)


def test_the_log_has_the_contract_names(finished: tuple[Path, Summary]) -> None:
    logged = rows(finished[0])
    assert [row["step"] for row in logged] == ["0", "1", "2", "3", "4"]
    assert {"train/loss", "lr", "val/loss", "val/mIoU", "val/boundary_IoU", "test/mIoU", "test/fwIoU"} <= logged[
        0
    ].keys()
    assert float(logged[0]["lr"]) > float(logged[3]["lr"]) > 0
    assert all(float(row["train/loss"]) > 0 for row in logged[:4])
    assert [bool(row["val/mIoU"]) for row in logged] == [False, True, False, True, False]


def test_a_checkpoint_describes_itself_in_plain_values(finished: tuple[Path, Summary]) -> None:
    checkpoint = read_checkpoint(finished[0] / "checkpoints/best.ckpt")
    assert checkpoint.config["model"]["name"] == "fcn8s"
    assert checkpoint.classes[:2] == ["background", "disc"]
    assert checkpoint.palette.shape == (8, 3)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(config("trainer.max_epochs=1"), tmp_path)
    first = rows(tmp_path)
    with caplog.at_level("WARNING"):
        train(config("ckpt_path=last", "datamodule.num_workers=1"), tmp_path)
    assert "with other options than before, so to another end: trainer.max_epochs=2 (was 1)." in caplog.text
    second = rows(tmp_path)
    assert [row["step"] for row in second] == ["0", "1", "2", "3", "4"]  # none twice, none missing
    assert [row["train/loss"] for row in second[:2]] == [row["train/loss"] for row in first[:2]]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4


def test_a_checkpoint_taken_elsewhere_goes_on_there(finished: tuple[Path, Summary], tmp_path: Path) -> None:
    """Its run's best score does not count in a folder that has no best checkpoint."""
    taken = tmp_path / "taken.ckpt"
    content = torch.load(finished[0] / "checkpoints/last.ckpt", weights_only=True)
    content["callbacks"]["Checkpointing"]["best_score"] = 1.0
    torch.save(content, taken)
    train(config(f"ckpt_path={taken}", "trainer.max_epochs=3"), tmp_path / "new")
    assert torch.load(tmp_path / "new/checkpoints/best.ckpt", weights_only=True)["global_step"] == 6


def test_a_damaged_last_checkpoint_is_answered_by_the_one_before(
    finished: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copytree(finished[0], tmp_path, dirs_exist_ok=True)
    whole = rows(tmp_path)
    last = tmp_path / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with caplog.at_level("WARNING"):
        train(config("ckpt_path=last"), tmp_path)
    assert f"Resuming from the one before it, {last.with_name('last.previous.ckpt')}" in caplog.text
    assert torch.load(last, weights_only=True)["global_step"] == 4
    again = rows(tmp_path)
    assert [row["step"] for row in again] == [row["step"] for row in whole]
    assert [row["val/loss"] for row in again[:2]] == [row["val/loss"] for row in whole[:2]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=fcn16s", "model.name=fcn8s, not fcn16s"),
        ("model.upsample=fixed", "model.upsample=learned, not fixed"),
        ("datamodule=camvid", "Set datamodule.root"),
    ],
)
def test_another_run_is_not_gone_on_with(
    override: str, message: str, finished: tuple[Path, Summary], tmp_path: Path
) -> None:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        options = [] if override == "datamodule=camvid" else TINY
        cfg = compose("train", overrides=[*options, f"ckpt_path={finished[0]}/checkpoints/last.ckpt", override])
    with pytest.raises(UserError, match=message):
        train(cfg, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("option", ["fold", "folds", "fold_gap", "sequence_pattern"])
def test_another_fold_is_not_gone_on_with(option: str, finished: tuple[Path, Summary]) -> None:
    """Its training images are among those to validate on."""
    checkpoint = read_checkpoint(finished[0] / "checkpoints/last.ckpt")
    data = checkpoint.config["datamodule"] | {"fold": 1, "folds": 4, "fold_gap": None, "sequence_pattern": None}
    before = replace(checkpoint, config=checkpoint.config | {"datamodule": data})
    refuse_other_run(before, before.config, checkpoint.classes)
    refuse_other_run(checkpoint, checkpoint.config, checkpoint.classes)  # has none of these options
    other = before.config | {"datamodule": data | {option: 5}}
    with pytest.raises(UserError, match=f"of a run with datamodule.{option}={data[option]}, not 5"):
        refuse_other_run(before, other, checkpoint.classes)


def test_gradients_of_every_stage_are_logged_where_asked_for(tmp_path: Path) -> None:
    train(config("log_gradients=true", "trainer.max_epochs=-1", "trainer.max_steps=1"), tmp_path)
    first = rows(tmp_path)[0]
    names = [*(f"gradient/encoder_stage{number}" for number in range(1, 6)), "gradient/decoder"]
    assert all(math.isfinite(float(first[name])) for name in names)
    assert float(first["gradient/decoder"]) > 0


def test_the_same_seed_gives_the_same_run(tmp_path: Path, finished: tuple[Path, Summary]) -> None:
    again = train(config(), tmp_path)
    assert again.per_class == finished[1].per_class
    assert [row["train/loss"] for row in rows(tmp_path)] == [row["train/loss"] for row in rows(finished[0])]


def test_weights_of_an_earlier_run_start_a_new_one(tmp_path: Path, finished: tuple[Path, Summary]) -> None:
    checkpoint = finished[0] / "checkpoints/best.ckpt"
    started = train(config(f"init_from={checkpoint}", "recipe.lr=1e-12", "recipe.frozen_norm=true"), tmp_path)
    assert started.pixel_acc == pytest.approx(finished[1].pixel_acc, abs=1e-3)


def test_steps_that_end_within_an_epoch_are_scored_and_kept(tmp_path: Path) -> None:
    train(config("trainer.max_epochs=-1", "trainer.max_steps=3"), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert [row["step"] for row in rows(tmp_path) if row["val/mIoU"]] == ["1", "2"]


def test_a_few_steps_overfit_one_batch(tmp_path: Path) -> None:
    options = ["datamodule.train_size=4", "trainer.max_epochs=60", "trainer.check_val_every_n_epoch=60"]
    train(config(*options, "recipe.lr=0.002"), tmp_path)
    losses = [float(row["train/loss"]) for row in rows(tmp_path) if row["train/loss"]]
    assert losses[0] == pytest.approx(math.log(8), abs=1e-3)  # zero scores: all classes are equally likely
    assert losses[-1] < 0.5 * losses[1]


def test_a_nonfinite_loss_stops_the_run_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"The loss became (nan|inf) at step \d+ \(learning rates: encoder/weights.*train_0"
    ):
        train(config("recipe.optimizer=sgd", "recipe.lr=1e30"), tmp_path)


def test_an_infinite_loss_stops_the_run_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients may all be finite."""
    loss = Logits.loss
    monkeypatch.setattr(Logits, "loss", lambda *given: loss(*given) + math.inf)
    with pytest.raises(UserError, match=r"The loss became inf at step 0 "):
        train(config(), tmp_path)


def test_every_step_draws_from_a_seed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else dropout would silence the same units in all of them."""
    step, seeds = SegmentationModule.training_step, []
    monkeypatch.setattr(
        SegmentationModule, "training_step", lambda *given: seeds.append(torch.initial_seed()) or step(*given)
    )
    train(config(), tmp_path)
    assert len(set(seeds)) == len(seeds) == 4


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The images of these steps hold a value that is not finite."""
    images = SegmentationModule.images

    def poisoned(self: SegmentationModule, batch: dict[str, Any]) -> torch.Tensor:
        values = images(self, batch)
        if self.trainer.training and self.global_step in steps:
            values[0, 0, 0, 0] = math.nan
        return values

    monkeypatch.setattr(SegmentationModule, "images", poisoned)


def test_the_weights_before_a_nonfinite_loss_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, 1)
    options = ["recipe.frozen_norm=true", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match="nan at step 1"):
        train(config(*options), tmp_path / "stopped")
    kept = tmp_path / "stopped/checkpoints/before_nonfinite.ckpt"
    assert str(kept) in caplog.text
    train(config(*options, "trainer.max_steps=1"), tmp_path / "one_step")
    after_one = torch.load(tmp_path / "one_step/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in torch.load(kept, weights_only=True)["state_dict"].items():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(tensor, after_one[name], rtol=1e-3, atol=1e-4)  # its rate was another, by poly


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=1"], "Give a trainer.val_check_interval"),
        (["+trainer.val_check_interval=100"], "val_check_interval=100 is more than the . batches of an epoch"),
        (["+trainer.val_check_interval=0"], "val_check_interval=0 should be at least 1 or above 0"),
        (
            ["+trainer.val_check_interval='00:00:00:05'"],
            "=00:00:00:05 should be a whole number or a number",
        ),
    ],
)
def test_validations_that_no_checkpoint_can_be_saved_at_are_refused(
    options: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        train(config(*options), tmp_path)


@pytest.mark.parametrize("clip", ["1.0", "null"])
def test_nonfinite_steps_are_left_out_where_asked_for(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, 1, 2)
    summary = train(config("recipe.on_nonfinite=skip", f"recipe.clip_norm={clip}"), tmp_path)
    assert summary.skipped_steps == 2
    assert "Skipped a step (2 so far): the gradient is not finite at step 2" in caplog.text
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())  # batch norm's statistics too
    moments = last["optimizer_states"][0]["state"]
    assert {int(state["step"]) for state in moments.values()} == {2}  # of four


def test_a_step_of_several_batches_is_left_out_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of its two batches is poisoned. The second is not, nor are the statistics from before it."""
    images = SegmentationModule.images

    def poisoned(self: SegmentationModule, batch: dict[str, Any]) -> torch.Tensor:
        first = self.trainer.training and (self.trainer.current_epoch, self.trainer.fit_loop.batch_idx) == (0, 0)
        return images(self, batch) * (math.nan if first else 1.0)

    monkeypatch.setattr(SegmentationModule, "images", poisoned)
    summary = train(config("recipe.on_nonfinite=skip", "trainer.accumulate_grad_batches=2"), tmp_path)
    assert summary.skipped_steps == 1
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())


def test_a_run_is_not_resumed_in_the_folder_of_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/last.ckpt").touch()
    resumed = tmp_path / "one/checkpoints/last.ckpt"
    RunFolder(tmp_path / "one").check_free(resumed)
    RunFolder(tmp_path / "new").check_free(resumed)
    with pytest.raises(UserError, match="other holds a training run"):
        RunFolder(tmp_path / "other").check_free(resumed)
    with pytest.raises(UserError, match="other holds a training run"):
        check_folder("train", [f"ckpt_path={resumed}", f"hydra.run.dir={tmp_path / 'other'}"])


def test_norms_are_synchronized_between_gpus_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sync_batchnorm=true takes GPUs"):
        train(config("trainer.sync_batchnorm=true"), tmp_path)


def test_norms_that_hold_activations_are_not_synchronized(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    words = ["backbone=timm", "backbone.timm_name=mobilenetv3_small_050", "trainer.sync_batchnorm=true"]
    with pytest.raises(UserError, match="would replace the BatchNormAct2d of backbone=timm"):
        train(config(*words), tmp_path)


def test_a_sum_of_losses_trains_and_is_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a run that resumes with other losses is told so."""
    train(config("recipe.loss={mean: 1.0, dice: 0.5, sum: 1e-6}", "trainer.max_epochs=1"), tmp_path)
    net = load_model(tmp_path / "checkpoints/last.ckpt")
    dataset = make(ShapesDataModule, val_size=3).dataset("val")
    images, labels = (torch.stack([dataset[index][name] for index in range(3)]) for name in ("image", "label"))
    with torch.no_grad():
        logits = net(net.preprocess(images / 255))
    summed = loss_of(logits, labels, None, "sum") / len(labels)  # of an image
    expected = loss_of(logits, labels) + 0.5 * loss_of(logits, labels, None, "dice") + 1e-6 * summed
    logged = [row["val/loss"] for row in rows(tmp_path) if row["val/loss"]]
    assert float(logged[-1]) == pytest.approx(expected.item(), rel=1e-4)
    last = tmp_path / "checkpoints/last.ckpt"
    train(config(f"ckpt_path={last}", "recipe.loss={mean: 1.0}", "trainer.max_epochs=2"), tmp_path)
    assert "recipe.loss={'mean': 1.0} (was {'mean': 1.0, 'dice': 0.5, 'sum': 1e-06})" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ckpt_path=gone.ckpt", "ckpt_path=gone.ckpt: there is no such file"),
        ("init_from=gone.ckpt", "init_from=gone.ckpt: there is no such file"),
        ("recipe.loss=median", "recipe.loss=median should be mean, sum, ohem"),
        ("recipe.class_weights=[1,2]", "a list of 8 numbers"),
        ("datamodule.batch_size=9", "batch_size=9 is more than the 8 training images"),
        ("recipe.optimizer=adam", "Did you mean 'adamw'"),
        ("recipe.schedule.name=polly", "Did you mean 'poly'"),
    ],
)
def test_mistakes_are_told_in_words(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(config(override), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # nothing is written before the mistake is found


def test_auto_values_of_a_recipe_are_worked_out() -> None:
    datamodule = make(ShapesDataModule, train_size=4, val_size=1, test_size=1)
    recipe = make_recipe(class_weights="median_frequency")
    pretrained = recipe.resolve(True, datamodule)
    assert pretrained.encoder_lr_multiplier == 0.1
    assert pretrained.class_weights == datamodule.median_frequency_weights().tolist()
    assert recipe.resolve(False, datamodule).encoder_lr_multiplier == 4.0


def test_a_poly_schedule_ends_near_zero_and_encoder_rates_follow(tmp_path: Path) -> None:
    train(config("recipe.encoder_lr_multiplier=0.5", "recipe.schedule.power=1.0"), tmp_path)
    rates = [float(row["lr"]) for row in rows(tmp_path) if row["lr"]]
    assert rates == pytest.approx([5e-4, 3.75e-4, 2.5e-4, 1.25e-4])  # four steps down a straight line
    groups = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {group["name"]: group["initial_lr"] for group in groups} == {
        "encoder/weights": 2.5e-4,
        "encoder/biases": 2.5e-4,
        "decoder/weights": 5e-4,
        "decoder/biases": 5e-4,
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_clipped_step_is_as_long_as_the_rate_times_the_limit(precision: str, tmp_path: Path) -> None:
    """With plain SGD; from the same seed, against a step of no length."""
    plain = ["recipe.optimizer=sgd", "recipe.momentum=0.0", "recipe.weight_decay=0.0", "recipe.schedule.name=constant"]
    plain += ["recipe.clip_norm=0.01", "recipe.encoder_lr_multiplier=1.0", f"trainer.precision={precision}"]
    plain += ["recipe.center_updates=null"]  # which would shorten the step
    ends = []
    for rate in ("1e-30", "0.5"):
        train(config(*plain, f"recipe.lr={rate}", "trainer.max_epochs=-1", "trainer.max_steps=1"), tmp_path / rate)
        last = torch.load(tmp_path / rate / "checkpoints/last.ckpt", weights_only=True)
        names = {f"net.{name}" for name, _ in create_model("fcn8s", "resnet18", 8).named_parameters()}
        ends.append(torch.cat([tensor.flatten() for name, tensor in last["state_dict"].items() if name in names]))
    assert torch.linalg.vector_norm(ends[1] - ends[0]).item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_frozen_norms_keep_their_statistics(tmp_path: Path) -> None:
    train(config("recipe.frozen_norm=true"), tmp_path / "frozen")
    train(config(), tmp_path / "free")
    name = "net.encoder.layer1.0.bn1.running_mean"
    frozen, free = (
        torch.load(tmp_path / kind / "checkpoints/last.ckpt", weights_only=True)["state_dict"][name]
        for kind in ("frozen", "free")
    )
    assert not frozen.any()
    assert free.any()


def test_without_a_test_split_the_best_is_scored_on_val(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            values = np.random.default_rng(index).integers(0, 3, (40, 50), np.uint8)
            Image.fromarray(values).save(tmp_path / f"data/masks/{split}/{index}.png")
            Image.fromarray(values * 100).save(tmp_path / f"data/images/{split}/{index}.png")
    options = ["datamodule=folder", f"datamodule.root={tmp_path / 'data'}", "datamodule.crop_size=32"]
    options += [
        "datamodule.batch_size=4",
        "datamodule.num_workers=0",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "logger=csv",
    ]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        summary = train(compose("train", overrides=options), tmp_path / "run")
    assert (summary.split, summary.num_images, summary.datamodule) == ("val", 2, "folder")
    assert list(summary.per_class) == ["class 0", "class 1", "class 2"]
    assert not any(name.startswith("test/") for name in rows(tmp_path / "run")[0])


TWO_STEPS = ["trainer.max_epochs=-1", "trainer.max_steps=2"]
TINY_FCN = ["backbone=vgg11", "backbone.classifier_channels=4", "datamodule.batch_size=1", *TWO_STEPS]
TINY_REFINENET = [
    *("backbone=resnet18", "model.widths={4:8,8:8,16:8,32:8}", "datamodule.batch_size=2"),
    *TWO_STEPS,
]
SMALLER = ["datamodule.train_size=4", "datamodule.val_size=1", "datamodule.test_size=1", "datamodule.eval_batch_size=1"]


def test_fcns_three_stages_run_one_from_the_other(tmp_path: Path) -> None:
    """Two steps each, on the smallest VGG, from other seeds."""
    earlier: list[str] = []
    before: dict[str, torch.Tensor] = {}
    for seed, (name, rate) in enumerate((("fcn32s", 1e-10), ("fcn16s", 1e-12), ("fcn8s", 1e-14))):
        cfg = config(f"+experiment={name}_heavy", *TINY_FCN, *SMALLER, *earlier, f"seed={seed}")
        train(cfg, tmp_path / name)
        assert (cfg.model.geometry, cfg.recipe.loss, cfg.recipe.momentum) == ("caffe", "sum", 0.99)
        assert [float(row["lr"]) for row in rows(tmp_path / name) if row["lr"]] == pytest.approx([rate] * 2, 1e-6, 0)
        last = tmp_path / name / "checkpoints/last.ckpt"
        tensors = torch.load(last, weights_only=True)["state_dict"]
        for part in ("net.encoder.features.0.weight", "net.encoder.classifier.fc7.weight"):
            if before:
                torch.testing.assert_close(tensors[part], before[part], rtol=1e-3, atol=1e-6)  # two tiny steps away
        earlier, before = [f"init_from={last}"], tensors


def test_a_later_stage_asks_for_the_earlier_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give init_from=CHECKPOINT"):
        train(config("+experiment=fcn16s_heavy", *TINY_FCN, *SMALLER), tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        pytest.param("fcn8s_atonce_heavy", TINY_FCN, [1e-10, 1e-10], marks=pytest.mark.slow),
        ("refinenet101_2017", TINY_REFINENET, [5e-4, 5e-4]),
        ("refinenet_lw50_2018", TINY_REFINENET, [5e-3, 2.5e-3]),
    ],
)
def test_other_published_trainings_run(name: str, options: list[str], rates: list[float], tmp_path: Path) -> None:
    train(config(f"+experiment={name}", *options, *SMALLER), tmp_path)
    assert [float(row["lr"]) for row in rows(tmp_path) if row["lr"]] == pytest.approx(rates, 1e-6, 0)


def test_a_resumed_run_reads_its_checkpoint_as_tensors_and_plain_values_alone(
    finished: tuple[Path, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copytree(finished[0], tmp_path / "run")
    load, asked = torch.load, []

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("weights_only"))
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", recorded)
    train(config("ckpt_path=last", "trainer.max_epochs=3"), folder)
    assert len(asked) >= 2  # ours and Lightning's
    assert set(asked) == {True}


def test_the_first_share_of_the_steps_sees_images_of_half_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def images(module: SegmentationModule, batch: dict[str, Any]) -> torch.Tensor:
        if module.training:
            seen.append(tuple(batch["image"].shape[2:]))
        return prepared(module, batch)

    prepared = SegmentationModule.images
    monkeypatch.setattr(SegmentationModule, "images", images)
    options = ["recipe.progressive_resizing=0.6", "trainer.limit_test_batches=1"]
    train(config(*options, "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=5"), tmp_path)
    assert seen == [(32, 32)] * 6 + [(64, 64)] * 4


@pytest.mark.parametrize("name", [pytest.param("fcn8s", marks=pytest.mark.slow), "refinenet"])
def test_the_recipe_of_refinenets_release_trains(name: str, tmp_path: Path) -> None:
    options = [
        f"model={name}",
        "recipe=refinenet_2017",
        "datamodule.train_size=12",
        "datamodule.images_per_epoch=[3,5]",
    ]
    if name == "refinenet":
        options.append("model.widths={4:8,8:8,16:8,32:8}")
    summary = train(config(*options, "datamodule.batch_size=1", "datamodule.images_per_class=1"), tmp_path)
    losses = [float(row["train/loss"]) for row in rows(tmp_path) if row["train/loss"]]
    assert 6 <= len(losses) <= 10  # two epochs of 3 to 5
    assert losses[0] == pytest.approx(math.log(len(summary.per_class)), rel=0.05)  # scores start near zero
    assert all(math.isfinite(loss) for loss in losses)
    checkpoint = read_checkpoint(tmp_path / "checkpoints/best.ckpt")
    assert checkpoint.config["model"]["input_scale"] == 1.2
    assert load_model(checkpoint.path).encoder.scale == 1.2
    before = checkpoint.config["recipe"]
    assert SegmentationModule.load_from_checkpoint(checkpoint.path).recipe.loss_at == before.pop("loss_at") == "scores"
    assert Recipe.from_config(before).loss_at == "pixels"  # of a run from before the option


def test_a_run_from_before_an_option_is_gone_on_with(finished: tuple[Path, Summary], tmp_path: Path) -> None:
    folder = copytree(finished[0], tmp_path / "run")
    last = folder / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    config_then = content[KEY]["config"]
    added = {"model": ("input_scale", "context", "crf"), "recipe": ("loss_at",), "datamodule": ("images_per_class",)}
    for group, options in added.items():
        for option in options:
            del config_then[group][option]
    torch.save(content, last)
    train(config(f"ckpt_path={last}", "trainer.max_epochs=3"), folder)
    assert torch.load(last, weights_only=True)["global_step"] == 6
    with pytest.raises(UserError, match=r"model\.input_scale=1\.0, not 1\.2"):
        train(config(f"ckpt_path={finished[0]}/checkpoints/last.ckpt", "model.input_scale=1.2"), tmp_path / "other")
