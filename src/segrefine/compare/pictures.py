"""The images in which variants differ most, with what each predicts for them: the pictures of `compare.py`'s page.

V variants, H W size, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from segrefine.compare.variants import Variant
from segrefine.core.errors import UserError, listing
from segrefine.runs.folder import RunFolder
from segrefine.runs.read import Run

LIMIT = 24
MAPS = 240
"""Predictions on a page, of all images and variants together, which keeps it below 10 MB."""

MAX_SIDE = 512
"""Pixels of the longer side of a picture: about as wide as the page shows it."""


@dataclass(frozen=True)
class Shares:
    """Of an image's pixels that are not void, those that two variants predict differently, and wrong ones, [0, 1]."""

    differing: np.ndarray  # (V, V)
    wrong: np.ndarray  # (V,)


@dataclass(frozen=True)
class Picture:
    """One image, reduced to `MAX_SIDE`, and what V variants predict for it; the shares are those of the whole image."""

    id: str
    image: np.ndarray = field(repr=False)  # (H, W, 3) uint8 RGB
    truth: np.ndarray = field(repr=False)  # (H, W) uint8, 0..K-1 or VOID
    predictions: np.ndarray = field(repr=False)  # (V, H, W) uint8, 0..K-1
    shares: Shares = field(repr=False)


@dataclass(frozen=True)
class Pictures:
    """Pictures of V variants, called `labels`, of K `classes` with the colors `palette` (K, 3) uint8 RGB."""

    labels: tuple[str, ...]
    classes: tuple[str, ...]
    palette: np.ndarray = field(repr=False)
    items: tuple[Picture, ...]


def choose_pictures(variants: Sequence[Variant], limit: int = LIMIT) -> tuple[Pictures | None, list[str]]:
    """Choose the images in which the variants differ most. Reads the label maps of all images and downloads nothing.

    Args:
        variants: each with the predictions of its first run that left any in `predictions/`.
        limit: the number of images at most; fewer of many variants (`MAPS`).

    Returns:
        The pictures, and remarks on what is not shown and why. Every pair of variants has its most different images
        among them, as far as the limit goes. None without two variants that left predictions, or without the data.
    """
    runs = {variant.label: run for variant in variants if (run := _predicting_run(variant)) is not None}
    without = [variant.label for variant in variants if variant.label not in runs]
    remarks = []
    if without:
        remarks.append(
            f"There are no predictions of {listing(without)}, which `evaluate.py checkpoint=RUN/{RunFolder.BEST} "
            "save_predictions=true` writes."
        )
    if len(runs) < 2:
        return None, [*remarks, "There are no pictures: they need the predictions of two models or more."]
    from segrefine.compare.differing import Source  # loads PyTorch

    try:
        source = Source(list(runs.values()))
    except (UserError, OSError) as error:
        return None, [*remarks, f"There are no pictures, since the data cannot be read: {error}"]
    items = list(islice(source.most_different(), min(limit, max(MAPS // len(runs), 4))))
    if source.faults:
        remarks.append(
            f"{len(source.faults)} of the images are not shown. The first: {next(iter(source.faults.values()))}"
        )
    if not items:
        return None, [*remarks, "There are no pictures: none of the images can be used."]
    datamodule = source.datamodule
    return Pictures(tuple(runs), tuple(datamodule.classes), datamodule.palette, tuple(items)), remarks


def _predicting_run(variant: Variant) -> Run | None:
    """The variant's first run that left a label map of any image."""
    for run in variant.runs:
        if any(run.folder.labels(name).is_file() for name in run.images):
            return run
    return None
