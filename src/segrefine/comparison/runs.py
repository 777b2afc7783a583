"""Finished runs read from their folders and grouped into variants: the same options, one run a seed."""

import csv
import glob
import gzip
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml

from segrefine.configs import HARMLESS, flatten
from segrefine.errors import UserError, did_you_mean, listing
from segrefine.metrics import COUNTS

log = logging.getLogger(__name__)

NO_DIFFERENCE = (HARMLESS - {"init_from", "strict"}) | {
    *("seed", "checkpoint", "logger", "submission", "save_predictions", "split"),
    *("datamodule.eval_batch_size", "hydra"),
}
"""Options that make no other variant."""

PLAIN_INFERENCE = {"tta": {"scales": [1.0], "flip": False}, "window": None}
"""How `train.py` scores; `evaluate.py` says it in its config."""


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: its config, summary.json, and the counts of every image of the scored split."""

    folder: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    images: tuple[str, ...]
    classes: tuple[str, ...]
    count_names: tuple[str, ...]
    counts: np.ndarray = field(repr=False)  # (N, C, K) int64: N images, C `count_names`, K `classes`

    @property
    def seed(self) -> int | None:
        return self.summary["seed"]

    def rows(self, prefix: str = "") -> np.ndarray:
        """(N, 3, K): intersection, truth and prediction, of the whole images or of a region such as `trimap_2_`."""
        names = [f"{prefix}{name}" for name in COUNTS[:3]]
        return self.counts[:, [self.count_names.index(name) for name in names]]

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a logged name in metrics.csv; empty where it was not logged."""
        if not next(self.folder.glob("metrics.csv*"), None):
            return np.empty(0), np.empty(0)
        with open_table(self.folder / "metrics.csv") as file:
            pairs = [(float(row["step"]) + 1, float(row[name])) for row in csv.DictReader(file) if row.get(name)]
        steps, values = np.array(pairs).reshape(-1, 2).T
        return steps, values


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seed, in its order; `label` says how they differ from the others."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.runs[0].summary


def find_folders(patterns: str | Sequence[str]) -> list[Path]:
    """Run folders by path or glob, each once; what is no finished run is named in the log and left out."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    folders: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(map(Path, glob.glob(str(Path(str(pattern)).expanduser()), recursive=True)), key=_natural)
        if not paths:
            raise UserError(f"runs={pattern}: there is no such folder.")
        paths = [path for path in paths if path.is_dir()]
        runs = [path for path in paths if (path / "summary.json").is_file()]
        if len(paths) == 1 and not runs:  # of a sweep, or of a day
            runs = sorted((file.parent for file in paths[0].rglob("summary.json")), key=_natural)
        unfinished = [path.name for path in paths if path not in runs and (path / "config.yaml").is_file()]
        if unfinished:
            log.warning(f"not finished, so left out: {listing(unfinished)}")
        folders |= dict.fromkeys(runs)
    if not folders:
        raise UserError(f"runs={listing(patterns)}: no finished run (with summary.json and per_image.csv) is there.")
    return list(folders)


def _natural(path: Path) -> list[tuple[int, str]]:
    """For an order in which fcn8s is before fcn16s."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def read_run(folder: Path) -> Run:
    """The run in `folder`; UserError naming the file that is missing or broken."""
    summary = _read(folder / "summary.json", json.loads)
    config = _read(next(folder.glob("config.y*ml"), folder / "config.yaml"), yaml.safe_load)
    missing = {"model", "backbone", "datamodule", "split", "seed", "mIoU", "params", "flops"} - summary.keys()
    if missing:
        raise UserError(f"{folder / 'summary.json'} lacks {', '.join(sorted(missing))}: is it of another version?")
    return Run(folder, config, summary, *_read_counts(folder))


def _read(path: Path, parse: Any) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it holds no named values.")
    return content


def _read_counts(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Images, classes, names of counts and counts (N, C, K) of per_image.csv, or per_image.csv.gz."""
    path = folder / "per_image.csv"
    try:
        with open_table(path) as file:
            header, *rows = csv.reader(file)
        columns = [column.split(":", 1) for column in header[1:]]
        names = tuple(dict.fromkeys(name for name, _ in columns))
        classes = tuple(dict.fromkeys(name for _, name in columns))
        values = np.array([row[1:] for row in rows], dtype=np.int64)
        if names[: len(COUNTS)] != COUNTS:
            raise ValueError("its columns are not COUNT:CLASS")
        return tuple(row[0] for row in rows), classes, names, values.reshape(len(rows), len(names), len(classes))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, EOFError, csv.Error) as error:
        raise UserError(f"{path} is broken: {error}.") from error


def open_table(path: Path) -> TextIO:
    """The .csv file, or the .csv.gz beside where it belongs, which is how results are kept."""
    options: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file() and not path.is_file():
        return gzip.open(packed, "rt", **options)
    return path.open(**options)


def group(runs: Sequence[Run]) -> list[Variant]:
    """The runs as variants, named after what tells them apart, in the order in which they come.

    Raises UserError if they were not scored on the same images with the same classes, or two have the same seed.
    """
    first = runs[0]
    for run in runs:
        for name in ("datamodule", "split"):
            if run.summary[name] != first.summary[name]:
                raise UserError(
                    f"{run.folder} is scored on {name} {run.summary[name]}, {first.folder} on {first.summary[name]}: "
                    "only runs on the same images can be compared."
                )
        if run.classes != first.classes or run.images != first.images:
            raise UserError(f"{run.folder} and {first.folder} are not scored on the same images and classes.")
    variants: dict[str, list[Run]] = {}
    for run, label in zip(runs, _labels(runs), strict=True):
        variants.setdefault(label, []).append(run)
    for label, members in variants.items():
        members.sort(key=lambda run: (run.seed is None, run.seed))
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise UserError(
                    f"{one.folder} and {other.folder} are both {label} with seed {one.seed}: leave one out."
                )
    return [Variant(label, tuple(members)) for label, members in variants.items()]


def find_variant(variants: Sequence[Variant], label: str) -> Variant:
    named = {variant.label: variant for variant in variants}
    if label not in named:
        raise UserError(f"There is no variant {label!r} among the runs.{did_you_mean(label, named)}")
    return named[label]


def _labels(runs: Sequence[Run]) -> list[str]:
    """For every run its model, its backbone where these differ, and the options in which runs differ that others of the
    same model, backbone or data have as well."""
    options = [_options(run) for run in runs]
    groups = ("model", "backbone", "datamodule", "recipe")
    differing: dict[str, set[str]] = {}
    for own in options:
        for key in own:
            alike = [other for other in options if _comparable(key, own, other, groups)]
            if any(other[key] != own[key] for other in alike if key in other):
                differing.setdefault(key, set()).add(str(own.get(f"{key.split('.')[0]}.name")))
    several = len({own["backbone.name"] for own in options}) > 1
    labels = []
    for own in options:
        parts = [own["model.name"], *([own["backbone.name"]] if several else [])]
        for key in sorted(differing.keys() - {"model.name", "backbone.name"}):
            if key in own and str(own.get(f"{key.split('.')[0]}.name")) in differing[key]:
                parts.append(f"{key.removeprefix('model.')}={_brief(own[key])}")
        labels.append(" ".join(parts))
    return labels


def _comparable(key: str, one: Mapping[str, Any], other: Mapping[str, Any], groups: Sequence[str]) -> bool:
    """Whether an option means the same in both: one of a model does in runs of that model alone."""
    name = f"{key.split('.')[0]}.name"
    return key.split(".")[0] not in groups or key == name or one.get(name) == other.get(name)


def _options(run: Run) -> dict[str, Any]:
    """Every option by its dotted name that may tell variants apart."""
    config = flatten(PLAIN_INFERENCE | dict(run.config))
    return {
        key: value
        for key, value in config.items()
        if not isinstance(value, Mapping) and key not in NO_DIFFERENCE and key.split(".")[0] not in NO_DIFFERENCE
    }


def _brief(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and "/" in value else str(value).replace(" ", "")
