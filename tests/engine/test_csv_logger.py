"""metrics.csv by its text."""

import csv
import time
from pathlib import Path
from typing import Any

import pytest

from segrefine.engine.loggers.csv import MetricsCSV


def written(folder: Path, *rows: tuple[int, dict[str, float]]) -> MetricsCSV:
    logger = MetricsCSV(folder / "metrics.csv")
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    logger.sync()
    return logger


def text(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


def test_what_is_logged_at_one_step_is_one_row_over_all_columns(tmp_path: Path) -> None:
    written(
        tmp_path,
        (9, {"train/loss": 0.5, "epoch": 0}),
        (19, {"train/loss": 0.25, "lr": 0.1, "epoch": 1}),
        (9, {"val/mIoU": 0.125, "epoch": 0}),
    )
    assert text(tmp_path).splitlines() == ["step,epoch,lr,train/loss,val/mIoU", "9,0,,0.5,0.125", "19,1,0.1,0.25,"]


def test_later_value_of_a_step_stands_and_rows_are_in_order(tmp_path: Path) -> None:
    written(tmp_path, (20, {"a": 1.0}), (3, {"a": 2.0}), (20, {"a": 0.0}))
    assert text(tmp_path).splitlines() == ["step,epoch,a", "3,,2.0", "20,,0.0"]


def test_step_that_is_not_given_is_the_first(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    assert text(tmp_path).splitlines() == ["step,epoch,a", "0,,1.0"]


def test_without_metrics_there_is_a_header(tmp_path: Path) -> None:
    written(tmp_path)
    assert text(tmp_path).splitlines() == ["step,epoch"]


def test_resumed_run_keeps_rows_before_its_step_and_drops_the_rest(tmp_path: Path) -> None:
    rows = [(step, {"loss": step / 4, "epoch": step // 2, "zero": 0.0}) for step in range(5)]
    written(tmp_path, *rows, (5, {"test/mIoU": 0.5}))
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.resume(3)
    logger.log_metrics({"loss": 9.0, "epoch": 1, "new": 7.0}, 3)
    logger.log_metrics({"new": 8.0}, 2)
    logger.sync()
    assert text(tmp_path).splitlines() == [
        "step,epoch,loss,new,zero",
        "0,0,0.0,,0.0",
        "1,0,0.25,,0.0",
        "2,1,0.5,8.0,0.0",
        "3,1,9.0,7.0,",
    ]


def test_resuming_without_a_file_starts_anew(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.resume(10)
    assert logger.rows == {}


def test_numbers_are_read_back_as_they_were(tmp_path: Path) -> None:
    values = {"a": 1 / 3, "b": 1e-30, "c": float("nan"), "d": float("inf"), 'x,"y"': -0.0}
    written(tmp_path, (0, values))
    resumed = MetricsCSV(tmp_path / "metrics.csv")
    resumed.resume(1)
    resumed.sync()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in values} == pytest.approx(values, rel=0, abs=0, nan_ok=True)


def test_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = written(tmp_path, (0, {"a": 1.0}))
    before = text(tmp_path)

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    logger.log_metrics({"a": 2.0}, 1)
    with pytest.raises(OSError, match="disk full"):
        logger.sync()
    assert text(tmp_path) == before
    monkeypatch.undo()
    logger.sync()
    assert text(tmp_path).splitlines() == ["step,epoch,a", "0,,1.0", "1,,2.0"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_file_is_written_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, now = MetricsCSV(tmp_path / "metrics.csv"), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seen = []
    for step, now in enumerate((100.0, 105.0, 111.0, 112.0)):  # noqa: B007
        logger.log_metrics({"a": step}, step)
        logger.save()
        seen.append(len(text(tmp_path).splitlines()) - 1)
    logger.finalize("success")
    assert [*seen, len(text(tmp_path).splitlines()) - 1] == [1, 1, 3, 3, 4]


def test_a_row_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    written(tmp_path, (0, {"a": 1.0}), (12, {"a": 2.0}), (120, {"a": 3.0}))
    whole = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(whole.removesuffix(b"0,,3.0\r\n"))  # what is left looks like row 12
    logger = MetricsCSV(tmp_path / "metrics.csv")
    logger.resume(100)
    logger.sync()
    assert text(tmp_path).splitlines() == ["step,epoch,a", "0,,1.0", "12,,2.0"]


def test_it_is_a_logger_of_lightning(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import Logger

    logger = MetricsCSV(tmp_path / "metrics.csv")
    assert isinstance(logger, Logger)
    assert (logger.name, logger.version) == ("csv", "")
    logger.log_hyperparams({"lr": 1})
    assert list(tmp_path.iterdir()) == []
