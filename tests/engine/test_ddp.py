"""Two processes on the CPU over gloo: the scores and weights of one, one run folder."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NARROW_PROCESS, run_typed

from segrefine.core.signals import REQUEUE

pytestmark = pytest.mark.usefixtures("narrow")

CHECKOUT = Path(__file__).parents[2]
TINY = [
    *("trainer.precision=32-true", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "logger=csv"),
    *("datamodule.train_size=4", "datamodule.val_size=5", "datamodule.test_size=3", "datamodule.eval_batch_size=2"),
    *("datamodule.augment.jitter=0.2", "recipe.optimizer=sgd", "recipe.lr=0.1", "recipe.frozen_norm=true"),
    "recipe.schedule.warmup_steps=0",
]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "datamodule.batch_size=2"]
ONE = ["trainer=cpu", "datamodule.batch_size=4"]


def command(script: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs a command; returns its summary.json."""
    if "trainer=ddp" not in arguments:
        assert run_typed(folder.parent, script, *arguments) == 0
    else:
        words = [sys.executable, str(CHECKOUT / script), *arguments]
        options = {"cwd": folder.parent, "env": os.environ | NARROW_PROCESS, "timeout": 280}
        result = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
        assert result.returncode == 0, result.stderr
    return json.loads((folder / "summary.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def runs(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a run in one process, and of the same in two, with half the batch each."""
    top = tmp_path_factory.mktemp("ddp")
    command("train.py", top / "one", *TINY, *ONE, f"hydra.run.dir={top / 'one'}")
    command("train.py", top / "two", *TINY, *TWO, f"hydra.run.dir={top / 'two'}")
    return top / "one", top / "two"


def test_two_processes_give_the_weights_of_one(runs: tuple[Path, Path]) -> None:
    one, two = map(weights, runs)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_one_process(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Five images of val and three of test over two processes: none is left out, none counts twice."""
    _, two = runs
    checkpoint = f"checkpoint={two / 'checkpoints/best.ckpt'}"
    one_process = [checkpoint, "trainer=cpu", "trainer.precision=32-true"]
    test = tmp_path / "test"
    alone = command("evaluate.py", test, *one_process, "split=test", f"hydra.run.dir={test}")
    together = json.loads((two / "summary.json").read_text())
    assert together["num_images"] == alone["num_images"] == 3
    assert together["per_class"] == alone["per_class"]
    assert together["weights"] == alone["weights"]
    assert sorted(map(str, rows(two / "per_image.csv"))) == sorted(map(str, rows(tmp_path / "test/per_image.csv")))
    val = command("evaluate.py", tmp_path / "val", *one_process, f"hydra.run.dir={tmp_path / 'val'}")
    logged = [float(row["val/mIoU"]) for row in rows(two / "metrics.csv") if row["val/mIoU"]]
    assert max(logged) == pytest.approx(val["mIoU"], abs=1e-7)


def test_one_folder_is_written_once(runs: tuple[Path, Path]) -> None:
    one, two = ({str(path.relative_to(folder)) for path in folder.rglob("*.*")} for folder in runs)
    assert one == two
    assert [row["step"] for row in rows(runs[0] / "metrics.csv")] == [
        row["step"] for row in rows(runs[1] / "metrics.csv")
    ]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_and_go_on(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the first is told to stop."""
    folder = tmp_path / "run"
    slow = [f"hydra.run.dir={folder}", "trainer.max_epochs=200", "checkpoint_every_minutes=null"]
    slow.append("datamodule.train_size=8")  # two batches an epoch: after the last one nothing is saved but validations
    words = [sys.executable, str(CHECKOUT / "train.py"), *TINY, *TWO, "trainer.check_val_every_n_epoch=200"]
    with subprocess.Popen(
        [*words, *slow], cwd=tmp_path, env=os.environ | NARROW_PROCESS, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (folder / "metrics.csv").is_file():
            time.sleep(0.2)
        time.sleep(3)
        process.terminate()
        _, said = process.communicate(timeout=100)
    assert process.returncode == REQUEUE, said
    steps = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 200
    assert f"Stopped after {steps} steps" in said
    epochs = steps // 2 + 2
    more = [f"hydra.run.dir={folder}", "ckpt_path=last", "datamodule.train_size=8", f"trainer.max_epochs={epochs}"]
    command("train.py", folder, *TINY, *TWO, *more)
    logged = [int(row["step"]) for row in rows(folder / "metrics.csv") if row["train/loss"]]
    assert logged == list(range(2 * epochs))
