"""What a training shows on a terminal, and what it says to do next."""

import logging
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import run_typed

from segrefine.engine.callbacks.progress import EpochLine, ScoringLines, StepLog, Throughput, TrainingBar

pytestmark = pytest.mark.usefixtures("narrow")

TINY = [
    *(
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "datamodule.num_workers=0",
        "trainer.log_every_n_steps=1",
        "logger=csv",
    ),
    *("datamodule.train_size=8", "datamodule.val_size=2", "datamodule.test_size=2", "datamodule.batch_size=2"),
    *("datamodule.crop_size=64", "hydra.run.dir=a run", "+trainer.enable_progress_bar=true"),
]


def test_a_training_shows_its_progress_and_says_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes what it writes to for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    assert run_typed(tmp_path, "train.py", *TINY) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    bars = [line for line in re.split(r"[\r\n]", shown) if line.startswith("Epoch 2/2")]
    assert re.search(r"4/4 left: 0:00:0\d loss: \d\.\d{3} mIoU: 0\.\d{3} images/s: \d", bars[-1])
    assert "Epoch 1/2" in shown
    assert "Epoch 0" not in shown
    # Lines of the log are whole, above the bar.
    assert len(re.findall(r"[\r\n]epoch [12] step [48]: train/loss [^\r\n]* images/s\)\n", shown)) == 2

    said = shown.partition("next:\n")[2].splitlines()
    evaluate, predict, compare = (shlex.split(line) for line in said[:3])
    assert (tmp_path / re.search(r"truth are in (.*\.png)", shown)[1]).is_file()  # type: ignore[index]
    assert evaluate == ["segrefine", "evaluate", "checkpoint=a run/checkpoints/best.ckpt", *evaluate[3:]]
    assert run_typed(tmp_path, *evaluate, "trainer=cpu", "trainer.precision=32-true", "hydra.run.dir=b") == 0
    assert "scoring the images of test" in capsys.readouterr().err
    assert predict[2] == evaluate[2]
    filled = [word.replace("ANOTHER_RUN", "b").replace("FOLDER", "c") for word in compare]
    assert run_typed(tmp_path, *filled) == 0


@pytest.mark.parametrize(
    ("batches", "seconds", "lines"),
    [
        (1, 0.0, []),
        (3, 0.0, [30, 60]),
        (50, 0.0, [*range(10, 100, 10)]),
        (233, 0.0, [*range(10, 100, 10)]),
        (50, 9.0, []),
    ],
)
def test_scoring_says_how_far_it_is(
    batches: int, seconds: int, lines: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScoringLines, "SECONDS", seconds)
    caplog.set_level(logging.INFO)
    trainer, module, callback = SimpleNamespace(num_test_batches=[batches]), SimpleNamespace(), ScoringLines("val")
    callback.on_test_start(trainer, module)  # type: ignore[arg-type]
    for index in range(batches):
        callback.on_test_batch_end(trainer, module, None, None, index)  # type: ignore[arg-type]
    assert caplog.messages == ["scoring the images of val", *(f"{share} % of the images scored" for share in lines)]


@pytest.mark.parametrize(("epochs", "said"), [(5, "Epoch 3/5"), (-1, "Epoch 3"), (None, "Epoch 3")])
def test_the_bar_counts_epochs_from_one(epochs: int | None, said: str) -> None:
    bar: Any = TrainingBar(Throughput(), StepLog())
    bar._trainer = SimpleNamespace(max_epochs=epochs)
    assert bar._get_train_description(2).strip() == said


def test_an_epoch_without_a_validation_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line, module = EpochLine(Throughput()), SimpleNamespace()
    for epoch in range(3):
        metrics = {"train/loss": 1.0, "val/mIoU": 0.5}  # the validation of epoch 1 stays
        trainer: Any = SimpleNamespace(current_epoch=epoch, global_step=4 * epoch + 4, callback_metrics=metrics)
        if epoch == 1:
            line.on_validation_end(trainer, module)  # type: ignore[arg-type]
        line.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert caplog.messages == [
        "epoch 1 step 4: train/loss 1.0000",
        "epoch 2 step 8: train/loss 1.0000 val/mIoU 0.5000",
        "epoch 3 step 12: train/loss 1.0000",
    ]
