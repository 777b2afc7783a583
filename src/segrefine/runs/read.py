"""Finished runs read from their folders."""

import csv
import glob
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segrefine.core.errors import UserError, listing
from segrefine.core.registry import rename_classes
from segrefine.metrics.segmentation import COUNTS
from segrefine.runs.folder import RunFolder
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

    def rows(self, prefix: str = "") -> np.ndarray:
        """(N, 3, K): intersection, truth and prediction, of the whole images or of a region such as `trimap_2_`."""
        names = [f"{prefix}{name}" for name in COUNTS[:3]]
        return self.counts[:, [self.count_names.index(name) for name in names]]

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a logged name in the table of metrics; empty where it was not logged."""
        path = self.folder.metrics
        if not next(path.parent.glob(f"{path.name}*"), None):
            return np.empty(0), np.empty(0)
        with open_table(path) as file:
            pairs = [(float(row["step"]) + 1, float(row[name])) for row in csv.DictReader(file) if row.get(name)]
        steps, values = np.array(pairs).reshape(-1, 2).T
        return steps, values


def read_run(path: Path) -> Run:
    """The run in the folder at `path`; UserError naming the file that is missing or broken."""
    folder = RunFolder(path)
    return Run(folder, read_config(folder.config), Summary.read(folder.summary), *read_per_image(folder.per_image))


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run, with the class paths of older versions replaced by names."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it holds no named values.")
    return rename_classes(content)


def find_folders(patterns: str | Sequence[str]) -> list[Path]:
    """Run folders by path or glob, each once; what is no finished run is named in the log and left out."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    folders: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(map(Path, glob.glob(str(Path(str(pattern)).expanduser()), recursive=True)), key=_natural)
        if not paths:
            raise UserError(f"runs={pattern}: there is no such folder.")
        paths = [path for path in paths if path.is_dir()]
        runs = [path for path in paths if RunFolder(path).finished]
        if len(paths) == 1 and not runs:  # of a sweep, or of a day
            runs = sorted((file.parent for file in paths[0].rglob(RunFolder.SUMMARY)), key=_natural)
        unfinished = [path.name for path in paths if path not in runs and RunFolder(path).config.is_file()]
        if unfinished:
            log.warning(f"not finished, so left out: {listing(unfinished)}")
        folders |= dict.fromkeys(runs)
    if not folders:
        needed = f"{RunFolder.SUMMARY} and {RunFolder.PER_IMAGE}"
        raise UserError(f"runs={listing(patterns)}: no finished run (with {needed}) is there.")
    return list(folders)


def _natural(path: Path) -> list[tuple[int, str]]:
    """For an order in which fcn8s is before fcn16s."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]
