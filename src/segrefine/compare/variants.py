"""Runs grouped into variants: the same options, one run a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from segrefine.core.config import flatten
from segrefine.core.errors import UserError, did_you_mean
from segrefine.runs.options import NO_DIFFERENCE, PLAIN_INFERENCE
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seed, in its order; `label` says how they differ from the others."""

    label: str
    runs: tuple[Run, ...]

    @property
    def summary(self) -> Summary:
        return self.runs[0].summary


def group(runs: Sequence[Run]) -> list[Variant]:
    """Group the runs into variants, named after what tells them apart, in the order in which they come.

    Raises:
        UserError: runs were not scored on the same images and classes, or two of a variant have the same seed.
    """
    check_same_images(runs)
    variants: dict[str, list[Run]] = {}
    for run, label in zip(runs, _labels(runs), strict=True):
        variants.setdefault(label, []).append(run)
    for label, members in variants.items():
        members.sort(key=lambda run: (run.seed is None, run.seed))
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise UserError(
                    f"{one.folder.path} and {other.folder.path} are both {label} with seed {one.seed}: remove one."
                )
    return [Variant(label, tuple(members)) for label, members in variants.items()]


def check_same_images(runs: Sequence[Run]) -> None:
    """Raise UserError if the runs were not all scored on the same data, classes and images, by name and by content."""
    first = runs[0]
    for run in runs:
        both = f"{run.folder.path} and {first.folder.path}"
        for name in ("datamodule", "split"):
            if getattr(run.summary, name) != getattr(first.summary, name):
                raise UserError(
                    f"{run.folder.path} is scored on {name} {getattr(run.summary, name)}, {first.folder.path} on "
                    f"{getattr(first.summary, name)}: only runs on the same images can be compared."
                )
        if run.classes != first.classes or run.images != first.images:
            raise UserError(f"{both} are not scored on the same images and classes.")
        # Labels have as many pixels of each class, inside and on boundaries, whatever a network predicts.
        differ = (run.truth != first.truth).any((1, 2))
        if differ.any():
            image = run.images[int(differ.argmax())]
            raise UserError(
                f"{both} are scored on images of the same names, but with other labels: {image} is the first that "
                "differs. Compare runs on one version of the data only."
            )


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
