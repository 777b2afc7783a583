"""metrics.csv: a row per step at which something was logged."""

import csv
import math
import time
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from segrefine.io.atomic import replacing

INTERVAL = 10.0
"""Least seconds between two writes of the file, but for those that a checkpoint or the end of the run asks for."""


class MetricsCSV(Logger):
    """Write the table at `path`, with columns step, epoch and the logged names, always as a whole.

    Lightning's own CSVLogger deletes the file of an earlier part of the run when a run is resumed. This one keeps its
    rows, except those beyond the step it resumes at.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        self._written_at = -math.inf

    name = "csv"
    version = ""

    def resume(self, step: int) -> None:
        """Take over the rows of the file up to `step`, the number of optimizer steps already made."""
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # the file may have been cut off on its way here
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(StringIO(whole))]
            self.rows = {int(row["step"]): row for row in rows if int(row["step"]) < step}

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        self.rows.setdefault(step, {"step": step}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Write the file unless that was done a moment ago. Lightning calls this whenever it logged something."""
        if time.monotonic() - self._written_at >= INTERVAL:
            self.sync()

    @rank_zero_only
    def sync(self) -> None:
        """Write the file, and see it on the disk before a checkpoint counts on it."""
        names = {name for row in self.rows.values() for name in row} - {"step", "epoch"}
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["step", "epoch", *sorted(names)], restval="")
            table.writeheader()
            table.writerows(self.rows[step] for step in sorted(self.rows))
        self._written_at = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.sync()
