"""A run that is killed, or asked to stop, and started again ends as if nothing had happened: to the last bit.

Every run is a process of its own, forked from one that has imported everything already.
"""

import csv
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from narrow import NARROW

from segrefine.core.signals import REQUEUE

OPTIONS = [
    *("model=fcn32s", "backbone=vgg11_bn", "backbone.classifier_channels=16"),  # with dropout and batch norm
    *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=3", "trainer.log_every_n_steps=2", "logger=csv"),
    *("datamodule.train_size=17", "datamodule.val_size=3", "datamodule.test_size=2", "datamodule.eval_batch_size=1"),
    *("datamodule.batch_size=2", "datamodule.crop_size=32", "datamodule.num_workers=2"),
    *("datamodule.augment.scale=[0.5,2.0]", "datamodule.augment.jitter=0.2", "trainer.accumulate_grad_batches=2"),
    *("deterministic=true", "recipe.schedule.warmup_steps=2", "checkpoint_every_minutes=1e-6"),
]
"""Three epochs of 8 batches, two batches a step; saved at every step."""


STEP = "segrefine.engine.module.SegmentationModule.training_step"
VALIDATION = "segrefine.engine.module.SegmentationModule.validation_step"
EPOCH = "segrefine.data.sampler.TrainSampler.set_epoch"


def slow(*values: Any) -> Any:
    """A case that `pytest -m slow` tries."""
    return pytest.param(*values, marks=pytest.mark.slow)


def train(folder: Path, options: list[str], fault: Callable[[], None] | None = None) -> None:
    """The target of a process: a whole run in `folder`, which may have a fault planted."""
    from hydra import compose, initialize_config_dir

    from segrefine.core.config import CONFIG_FOLDER
    from segrefine.engine import train as training

    for name, build in NARROW.items():
        setattr(torchvision.models, name, build)
    multiprocessing.set_start_method("fork", force=True)  # for workers; else a server again, which imports everything
    torch.set_num_threads(1)  # two wait for each other where other tests run beside
    if fault is not None:
        fault()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("train", overrides=[*OPTIONS, *options])
    training.train(cfg, folder)


def signalled_at(target: str, count: int, number: int = signal.SIGKILL, times: int = 1) -> None:
    """Plant in this process: at the `count`-th call of a function, named by module and class, it gets a signal."""
    from pydoc import locate

    owner, _, name = target.rpartition(".")
    place: Any = locate(owner)
    original, calls = getattr(place, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            if name == "save":  # half of a checkpoint
                args[1].write(os.urandom(100_000))
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(place, name, counted)


def start(folder: Path, *options: str, fault: Callable[[], None] | None = None) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segrefine.engine.train", "segrefine.data.shapes.scenes"])
    process = context.Process(target=train, args=(folder, list(options), fault))
    process.start()
    return process


def finish(process: BaseProcess) -> int | None:
    process.join(100)
    assert not process.is_alive()
    return process.exitcode


def resume(folder: Path, *options: str) -> None:
    there = (folder / "checkpoints/last.ckpt").is_file()
    assert finish(start(folder, *options, *(["ckpt_path=last"] if there else []))) == 0


def ending(folder: Path) -> dict[str, Any]:
    """All that a run leaves, less what was measured by the clock."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    summary = json.loads((folder / "summary.json").read_text())
    for measured in ("train_seconds", "images_per_second", "peak_memory_bytes"):
        del summary[measured]
    return {
        "weights": checkpoint["state_dict"],
        "beside their average": checkpoint.get("current_model_state", {}),
        "patience": [state for name, state in checkpoint["callbacks"].items() if name.startswith("Patience")],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "steps": checkpoint["global_step"],
        "best": best["state_dict"],
        "best step": best["global_step"],
        "metrics": (folder / "metrics.csv").read_text(),
        "images": (folder / "per_image.csv").read_text(),
        "panels": sorted((path.name, path.read_bytes()) for path in folder.glob("panels/*")),
        "summary": summary,
    }


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0) if isinstance(one, torch.Tensor) else None
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif not isinstance(one, torch.Tensor):
        assert one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The ending of a run that was left alone, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.perf_counter()
    assert finish(start(folder)) == 0
    return ending(folder), time.perf_counter() - started


def test_the_run_left_alone_has_logged_every_step(whole: tuple[dict[str, Any], float]) -> None:
    rows = list(csv.DictReader(whole[0]["metrics"].splitlines()))
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "3", "5", "7", "9", "11"]
    assert [row["step"] for row in rows if row["val/mIoU"]] == ["3", "7", "11"]
    assert whole[0]["steps"] == 12


def test_without_reading_processes_the_run_is_the_same(whole: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    assert finish(start(tmp_path, "datamodule.num_workers=0")) == 0
    assert_same(ending(tmp_path), whole[0])


@pytest.mark.parametrize(
    ("target", "count"),
    [
        slow(STEP, 6),  # within a step, gradients half gathered
        ("segrefine.engine.checkpoint_io.torch.save", 4),  # a checkpoint half written
        slow(VALIDATION, 5),  # in the second validation
        slow("segrefine.engine.callbacks.checkpoint.keep_previous", 1),  # the best is written, the last not yet
        slow(
            "segrefine.engine.callbacks.progress.EpochLine.on_validation_end", 2
        ),  # a validation without its checkpoint
        slow("segrefine.engine.module.SegmentationModule.on_test_epoch_end", 1),  # the training itself is over
    ],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    target: str, count: int, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    process = start(tmp_path, fault=partial(signalled_at, target, count))
    assert finish(process) == -signal.SIGKILL
    resume(tmp_path)
    assert_same(ending(tmp_path), whole[0])
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]  # nothing half written is left


def test_a_run_killed_in_an_epoch_drawn_by_class_goes_on_with_the_same_images(tmp_path: Path) -> None:
    """At the seventh batch and about the eleventh, of four an epoch; images depend on those of the epochs before."""
    options = ["datamodule.train_size=30", "datamodule.images_per_class=2", "datamodule.images_per_epoch=[8,8]"]
    options += ["recipe.loss_at=scores", "model.input_scale=1.2", "recipe.ema=0.9", "trainer.early_stopping=9"]
    options += ["model=refinenet_lw", "model.widths={4: 8, 8: 8, 16: 8, 32: 16}", "model.auxiliary=0.5"]
    assert finish(start(tmp_path / "whole", *options)) == 0
    folder = tmp_path / "killed"
    assert finish(start(folder, *options, fault=partial(signalled_at, STEP, 7))) == -signal.SIGKILL
    again = start(folder, *options, "ckpt_path=last", fault=partial(signalled_at, STEP, 5))
    assert finish(again) == -signal.SIGKILL
    resume(folder, *options)
    assert_same(ending(folder), ending(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("target", "count", "number", "status", "step"),
    [
        slow(STEP, 3, signal.SIGTERM, REQUEUE, 2),  # in the first half of the second step, which is completed
        slow(STEP, 8, signal.SIGUSR1, REQUEUE, 4),  # in the epoch's last batch: the stop waits for the validation
        (VALIDATION, 5, signal.SIGUSR2, REQUEUE, 8),  # the stop waits for its end
        slow(STEP, 11, signal.SIGINT, 130, 6),
        slow(EPOCH, 2, signal.SIGTERM, REQUEUE, 5),  # before an epoch's first step, which is made
    ],
)
def test_a_run_asked_to_stop_saves_and_goes_on_later(
    target: str,
    count: int,
    number: int,
    status: int,
    step: int,
    whole: tuple[dict[str, Any], float],
    tmp_path: Path,
) -> None:
    options = ["checkpoint_every_minutes=null"]  # nothing is saved but for the stop
    process = start(tmp_path, *options, fault=partial(signalled_at, target, count, number))
    assert finish(process) == status
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    assert not (tmp_path / "summary.json").exists()
    resume(tmp_path)
    assert_same(ending(tmp_path), whole[0])


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    options = ["checkpoint_every_minutes=null"]
    process = start(tmp_path, *options, fault=partial(signalled_at, STEP, 3, signal.SIGINT, 2))
    assert finish(process) == 130
    assert not (tmp_path / "checkpoints").exists()


def signalled_while_waiting() -> None:
    """Plant in this process: it gets SIGTERM while it waits for other nodes."""
    connect = torch.distributed.init_process_group

    def signalled(*args: Any, **kwargs: Any) -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        connect(*args, **kwargs)

    torch.distributed.init_process_group = signalled


def test_a_run_that_waits_for_other_nodes_stops_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.num_nodes=2", "trainer.strategy=ddp", fault=signalled_while_waiting)
    process.join(100)
    process.kill()  # if it still waits, as PyTorch does for half an hour
    assert finish(process) == REQUEUE


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["trainer.check_val_every_n_epoch=2"],  # the first epoch and the last have no validation of their own
        ["+trainer.val_check_interval=2"],
        ["+trainer.val_check_interval=6", "trainer.check_val_every_n_epoch=null"],
        ["trainer.max_steps=7"],
        ["trainer.accumulate_grad_batches=3"],  # 8 batches: the last step of an epoch has two
    ],
)
def test_validations_at_other_moments(options: list[str], tmp_path: Path) -> None:
    assert finish(start(tmp_path / "whole", *options)) == 0
    for count in (5, 8, 13):
        folder = tmp_path / str(count)
        assert finish(start(folder, *options, fault=partial(signalled_at, STEP, count))) == -signal.SIGKILL
        resume(folder, *options)
        assert_same(ending(folder), ending(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(seed: int, whole: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    draw = random.Random(seed)
    process = start(tmp_path)
    time.sleep(draw.uniform(0.3, 1) * whole[1])
    process.kill()
    process.join()
    resume(tmp_path)
    assert_same(ending(tmp_path), whole[0])
