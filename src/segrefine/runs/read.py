"""Read finished runs from their folders."""

import glob
import logging
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segrefine.core.errors import UserError, listing
from segrefine.metrics.scores import COUNTS
from segrefine.runs.folder import RunFolder
from segrefine.runs.options import PLAIN_INFERENCE, read_config
from segrefine.runs.per_image import open_table, read_per_image
from segrefine.runs.summary import Summary

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: its config, its summary, and the counts of every image of the scored split."""

    folder: RunFolder
    config: Mapping[str, Any]
    summary: Summary
    images: tuple[str, ...]
    classes: tuple[str, ...]
    count_names: tuple[str, ...]
    counts: np.ndarray = field(repr=False)  # (N, C, K) int64: N images, C `count_names`, K `classes`

    @property
    def seed(self) -> int | None:
        return self.summary.seed

    @property
    def trained(self) -> "tuple[Run, ...]":
        """The runs that this one was put together from: itself, unless it is the runs of all folds."""
        return (self,)

    def rows(self, prefix: str = "") -> np.ndarray:
        """Return intersection, truth and prediction, (N, 3, K), of whole images or of a region such as `trimap_2_`."""
        names = [f"{prefix}{name}" for name in COUNTS[:3]]
        return self.counts[:, [self.count_names.index(name) for name in names]]

    @property
    def truth(self) -> np.ndarray:
        """The pixels of each class in the label, and on its boundaries, (N, 2, K)."""
        return self.counts[:, [self.count_names.index(name) for name in ("truth", "boundary_truth")]]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The table of metrics, a row for each logged step; empty if the run kept none."""
        path = self.folder.metrics
        try:
            with open_table(path) as file:
                return pd.read_csv(file, dtype=float)
        except (FileNotFoundError, pd.errors.EmptyDataError):
            return pd.DataFrame()
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and values of a logged name; empty if it was not logged."""
        if name not in self.metrics:
            return np.empty(0), np.empty(0)
        rows = self.metrics.dropna(subset=["step", name])
        return rows["step"].to_numpy(float) + 1, rows[name].to_numpy(float)

    @property
    def gain(self) -> float | None:
        """How far val mIoU rose over the last fifth of the steps, a fraction; None with fewer than two validations."""
        steps, values = self.curve("val/mIoU")
        if len(steps) < 2:
            return None
        return float(values[-1] - np.interp(0.8 * steps[-1], steps, values))


def read_run(path: Path) -> Run:
    """Read the run in the folder at `path`.

    Raises:
        UserError: a file is missing or broken. The message names it.
    """
    folder = RunFolder(path)
    return Run(folder, read_config(folder.config), Summary.read(folder.summary), *read_per_image(folder.per_image))


def find_runs(patterns: str | Sequence[str]) -> list[Run]:
    """Read the runs in run folders, in folders of runs such as a sweep, or that globs match, each run once.

    A glob or a folder of runs may hold more than finished runs that can be compared. The log lists what is skipped.

    Raises:
        UserError: a folder does not exist, is named itself but is no finished run, or holds no finished run.
    """
    found: dict[Path, Run] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        folders = find_folders(str(pattern))
        runs = [read_run(folder) for folder in folders]
        if folders != [Path(str(pattern)).expanduser()]:
            runs = _skip_evaluations(runs)
        found |= {run.folder.path: run for run in runs}
    return list(found.values())


def find_folders(pattern: str) -> list[Path]:
    """Return the folders of finished runs that `pattern` names; see `find_runs`."""
    place = Path(pattern).expanduser()
    matches = [place] if place.is_dir() else [Path(path) for path in glob.glob(str(place), recursive=True)]
    matches = sorted((path for path in matches if path.is_dir()), key=_natural)
    if not matches:
        raise UserError(f"runs={pattern}: there is no such folder.")
    candidates = [run for match in matches for run in _runs_in(match) or [match]]
    lacking = {path: lacks for path in candidates if (lacks := _lacks(path))}
    finished = [path for path in candidates if path not in lacking]
    if not finished:
        example, lacks = next(iter(lacking.items()))
        raise UserError(
            f"runs={pattern}: there is no finished run. {example} lacks {', '.join(lacks)}. "
            "Resume an unfinished run with ckpt_path=last, or remove it from runs=."
        )
    if lacking:
        log.warning(f"skipped, as they are not finished runs: {listing(list(lacking))}")
    return finished


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder if it is a run, finished or not, otherwise the runs below it."""
    if RunFolder(folder).config.is_file():
        return [folder]
    folders = sorted((path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()), key=_natural)
    return [run for path in folders for run in _runs_in(path)]


def _lacks(path: Path) -> list[str]:
    """Return the names of missing files that a comparison needs."""
    folder = RunFolder(path)
    files = folder.config, folder.summary, folder.per_image
    return [file.name for file in files if not (file.is_file() or file.with_name(f"{file.name}.gz").is_file())]


def _skip_evaluations(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without the evaluations that cannot be compared with the trained ones, and log those."""
    trained = [run for run in runs if run.summary.checkpoint is None]
    reasons = [_unfit(run, trained) for run in runs]
    for run, reason in zip(runs, reasons, strict=True):
        if reason:
            log.warning(f"skipped the evaluation {run.folder.path}: it {reason}")
    return [run for run, reason in zip(runs, reasons, strict=True) if not reason]


def _unfit(run: Run, trained: Sequence[Run]) -> str:
    """Return why an evaluation cannot be compared with the `trained` runs; "" if it can, or if `run` is none."""
    summary = run.summary
    if summary.checkpoint is None or not trained:
        return ""
    alike = [other for other in trained if (other.summary.split, other.images) == (summary.split, run.images)]
    if not alike:
        return "scores other images than the trained runs do"
    plain = all(getattr(summary, name) == value for name, value in PLAIN_INFERENCE.items())
    repeated = [other for other in alike if plain and summary.weights and summary.weights == other.summary.weights]
    return f"repeats the scores of {repeated[0].folder.path}" if repeated else ""


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts fcn8s before fcn16s."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]
