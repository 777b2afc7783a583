"""Group runs into variants: runs with the same options, one for each seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segrefine.compare.folds import find_fold, merge_folds
from segrefine.compare.names import name_runs
from segrefine.core.errors import UserError, did_you_mean
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary

STILL_LEARNING = 0.005
"""A network that gained half a point of val mIoU or more over the last fifth of its steps was still learning."""


@dataclass(frozen=True)
class Variant:
    """Runs that differ only in their seed, sorted by seed."""

    label: str  # how they differ from the others
    runs: tuple[Run, ...]
    whole: str = ""  # everything that sets them apart, if the label was shortened

    @property
    def summary(self) -> Summary:
        return self.runs[0].summary

    @property
    def gain(self) -> float | None:
        """Mean over the seeds of how far val mIoU rose over the last fifth of the steps; None where nothing tells."""
        known = [gain for run in self.runs if (gain := run.gain) is not None]
        return float(np.mean(known)) if known else None

    @property
    def still_learning(self) -> bool:
        """Whether longer training would probably change the scores."""
        return self.gain is not None and self.gain >= STILL_LEARNING


def group(runs: Sequence[Run], labels: Mapping[str, str] | None = None) -> list[Variant]:
    """Group the runs into variants, named after what tells them apart, in the order of the runs.

    Args:
        runs: of one set of images, or of all folds of one.
        labels: names of variants -> names to give them instead.

    Raises:
        UserError: runs were not scored on the same images and classes, two of a variant have the same seed, or `labels`
            names an unknown variant or gives two of them the same name.
    """
    runs = merge_folds(runs)
    check_same_images(runs)
    names = name_runs(runs)
    variants: dict[str, list[Run]] = {}
    for run, label in zip(runs, names.labels, strict=True):
        variants.setdefault(label, []).append(run)
    for label, members in variants.items():
        members.sort(key=lambda run: (run.seed is None, run.seed))
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise UserError(
                    f"{one.folder.path} and {other.folder.path} are both {label} with seed {one.seed}: remove one."
                )
    new = _check_labels(labels or {}, list(variants))
    return [Variant(new[label], tuple(members), names.whole.get(label, "")) for label, members in variants.items()]


def _check_labels(labels: Mapping[str, str], found: Sequence[str]) -> dict[str, str]:
    """Return the new name of every variant. Raise UserError for an unknown variant or a name given twice."""
    for label in labels:
        if label not in found:
            raise UserError(f"labels: there is no variant {label!r} among the runs.{did_you_mean(label, found)}")
    new = {label: str(labels.get(label, label)) for label in found}
    for one, other in pairwise(sorted(found, key=lambda label: new[label])):
        if new[one] == new[other]:
            raise UserError(f"labels: {one!r} and {other!r} would both be called {new[one]!r}.")
    return new


def check_same_images(runs: Sequence[Run]) -> None:
    """Raise UserError unless all runs were scored on the same data, classes and images, by name and by content."""
    first = runs[0]
    for run in runs:
        both = f"{run.folder.path} and {first.folder.path}"
        for name in ("datamodule", "split"):
            if getattr(run.summary, name) != getattr(first.summary, name):
                raise UserError(
                    f"{run.folder.path} is scored on {name} {getattr(run.summary, name)}, {first.folder.path} on "
                    f"{getattr(first.summary, name)}: compare only runs on the same images."
                )
        if run.classes != first.classes or run.images != first.images:
            one, other = _name_fold(run), _name_fold(first)
            if one != other:
                raise UserError(
                    f"{run.folder.path} is of {one}, {first.folder.path} of {other}, so they are scored on different "
                    "images. Compare the runs of each fold by themselves."
                )
            raise UserError(f"{both} are not scored on the same images and classes.")
        # Labels have as many pixels of each class, inside and on boundaries, whatever a network predicts.
        differ = (run.truth != first.truth).any((1, 2))
        if differ.any():
            image = run.images[int(differ.argmax())]
            raise UserError(
                f"{both} are scored on images with the same names but different labels. The first is {image}. "
                "Compare only runs on the same version of the data."
            )


def _name_fold(run: Run) -> str:
    fold = find_fold(run)
    return "no fold" if fold is None else f"fold {fold} of {run.config['datamodule'].get('folds')}"


def find_variant(variants: Sequence[Variant], label: str) -> Variant:
    """Return the variant called `label`, or raise UserError if there is none."""
    named = {variant.label: variant for variant in variants}
    if label not in named:
        raise UserError(f"There is no variant {label!r} among the runs.{did_you_mean(label, named)}")
    return named[label]
