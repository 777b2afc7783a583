"""metrics.csv: a row per step at which something was logged."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from segrefine.atomic import replacing


class MetricsCSV(Logger):
    """Writes `folder/metrics.csv`, columns step, epoch and the logged names.

    Lightning's own CSVLogger deletes the file of an earlier part of the run when a run is resumed; this one goes on
    from it, less the rows beyond the step it resumes at. The file is replaced as a whole, so it is never half
    written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}

    name = "csv"
    version = ""

    def resume(self, step: int) -> None:
        """Take over the rows of the file up to `step`, the number of optimiser steps already made."""
        if self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
            self.rows = {int(row["step"]): row for row in rows if int(row["step"]) < step}

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Called by Lightning now and then; writes every row."""
        names = sorted({name for row in self.rows.values() for name in row} - {"step", "epoch"})
        with replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *names], restval="")
            writer.writeheader()
            writer.writerows(self.rows[step] for step in sorted(self.rows))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
