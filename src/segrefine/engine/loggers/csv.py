"""metrics.csv: a row per step at which something was logged."""

import csv
import os
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from segrefine.io.atomic import replacing


class MetricsCSV(Logger):
    """Writes the table at `path`, columns step, epoch and the logged names.

    Lightning's own CSVLogger deletes the file of an earlier part of the run when a run is resumed; this one goes on
    from it, less the rows beyond the step it resumes at. New rows are appended; where a row was added to, or a new name
    came up, the file is replaced as a whole.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        self._columns: list[str] = []  # of the file
        self._last = -1  # step of its last row
        self._changed: set[int] = set()  # steps of rows that it has not, or not as they are

    name = "csv"
    version = ""

    def resume(self, step: int) -> None:
        """Take over the rows of the file up to `step`, the number of optimiser steps already made."""
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row off
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(StringIO(whole))]
            self.rows = {int(row["step"]): row for row in rows if int(row["step"]) < step}
            self._columns = []  # written anew at the next occasion

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        self.rows.setdefault(step, {"step": step}).update(metrics)
        self._changed.add(step)

    @rank_zero_only
    def save(self) -> None:
        """Called by Lightning whenever it logged something."""
        names = {name for step in self._changed for name in self.rows[step]} - {"step", "epoch"}
        columns, self._columns = self._columns, []  # unknown until all is written
        if columns and names <= set(columns) and min(self._changed, default=-1) > self._last:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                self._write_rows(file, columns, sorted(self._changed))
        elif self._changed or not columns:
            names = {name for row in self.rows.values() for name in row} - {"step", "epoch"}
            columns = ["step", "epoch", *sorted(names)]
            with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(columns)
                self._write_rows(file, columns, sorted(self.rows))
        self._columns = columns
        self._last = max(self.rows, default=-1)
        self._changed.clear()

    def _write_rows(self, file: TextIO, columns: list[str], steps: list[int]) -> None:
        csv.DictWriter(file, columns, restval="").writerows(self.rows[step] for step in steps)

    @rank_zero_only
    def sync(self) -> None:
        """Write what is left, and see it on the disk before a checkpoint counts on it."""
        self.save()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
