"""Put the runs of a cross-validation together: one for each seed, over the images of all folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segrefine.compare.names import variant_options
from segrefine.core.errors import UserError, listing
from segrefine.metrics.scores import SCORES
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedRun(Run):
    """The runs of all folds as one run. Every image is scored by the network that was not trained on it."""

    parts: tuple[Run, ...]  # one for each fold; curves and gains are means over them, the cost is that of one

    @property
    def trained(self) -> tuple[Run, ...]:
        return self.parts

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        curves = [part.curve(name) for part in self.parts]
        length = min(len(steps) for steps, _ in curves)  # the folds differ by a few steps an epoch
        steps, values = (np.mean([curve[at][:length] for curve in curves], axis=0) for at in (0, 1))
        return steps, values

    @property
    def gain(self) -> float | None:
        gains = [part.gain for part in self.parts]
        return None if None in gains else float(np.mean([gain for gain in gains if gain is not None]))


def merge_folds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with those of all folds of one variant and seed put together.

    Runs of a single fold, and runs of several folds that share their test images, are returned as they are.

    Raises:
        UserError: a fold is missing, or there twice.
    """
    if len({find_fold(run) for run in runs}) < 2 or any(find_fold(run) is None for run in runs) or _share_images(runs):
        return list(runs)
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run in runs:
        options = {key: value for key, value in variant_options(run.config).items() if key != "datamodule.fold"}
        groups.setdefault((repr(sorted(options.items())), run.seed), []).append(run)
    return [_merge(sorted(parts, key=lambda part: find_fold(part) or 0)) for parts in groups.values()]


def _merge(parts: Sequence[Run]) -> FoldedRun:
    first = parts[0]
    folds, wanted = [find_fold(part) for part in parts], range(int(first.config["datamodule"]["folds"]))
    what = f"{first.summary.model} with seed {first.seed} ({listing([part.folder.path for part in parts])})"
    if missing := [str(fold) for fold in wanted if fold not in folds]:
        raise UserError(
            f"{what} lacks fold {', '.join(missing)} of {len(wanted)}, and runs of several folds are compared over the "
            "images of all. Train what is missing, or compare the runs of each fold by themselves."
        )
    if len(folds) > len(wanted):
        raise UserError(f"{what} has a fold twice: remove one.")
    counts = np.concatenate([part.counts for part in parts])
    return FoldedRun(
        folder=first.folder,
        config={**first.config, "datamodule": {**first.config["datamodule"], "fold": "all"}},
        summary=_without_scores(first.summary, len(counts)),
        images=tuple(image for part in parts for image in part.images),
        classes=first.classes,
        count_names=first.count_names,
        counts=counts,
        parts=tuple(parts),
    )


def _without_scores(summary: Summary, images: int) -> Summary:
    """Return the summary without what it says of one fold alone. The scores of all folds follow from the counts."""
    scores: dict[str, Any] = dict.fromkeys((*SCORES, "ece", "val_mIoU", "weights"))
    return replace(summary, num_images=images, per_class={}, **scores)


def find_fold(run: Run) -> int | None:
    """Return the fold that the run is scored on, or None without folds."""
    return (run.config.get("datamodule") or {}).get("fold")


def _share_images(runs: Sequence[Run]) -> bool:
    """Whether two runs of different folds were scored on a common image, as on a test split."""
    owners: dict[str, int | None] = {}
    return any(owners.setdefault(image, find_fold(run)) != find_fold(run) for run in runs for image in run.images)
