"""Choose the images in which variants differ most, with each variant's prediction, for the page of `segrefine compare`.

Shapes: V variants, H W size, K classes.
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
"""The most predictions on a page, over all images and variants, which keeps it below 10 MB."""

MAX_SIDE = 512
"""Pixels of the longer side of a picture, about the width at which the page shows it."""


@dataclass(frozen=True)
class Shares:
    """Fractions in [0, 1] of an image's pixels that are not void."""

    differing: np.ndarray  # (V, V), those that two variants predict differently
    wrong: np.ndarray  # (V,), those that a variant predicts wrongly


@dataclass(frozen=True)
class Picture:
    """One image, reduced to `MAX_SIDE`, and the predictions of V variants for it."""

    id: str
    image: np.ndarray = field(repr=False)  # (H, W, 3) uint8 RGB
    truth: np.ndarray = field(repr=False)  # (H, W) uint8, 0..K-1 or VOID
    predictions: np.ndarray = field(repr=False)  # (V, H, W) uint8, 0..K-1
    shares: Shares = field(repr=False)  # of the image at full size


@dataclass(frozen=True)
class Pictures:
    """Pictures of V variants called `labels`, over K `classes` with the colors `palette`, (K, 3) uint8 RGB."""

    labels: tuple[str, ...]
    classes: tuple[str, ...]
    palette: np.ndarray = field(repr=False)
    items: tuple[Picture, ...]


def choose_pictures(variants: Sequence[Variant], limit: int = LIMIT) -> tuple[Pictures | None, list[str]]:
    """Choose the images in which the variants differ most.

    Reads the label maps of all images and downloads nothing.

    Args:
        variants: each is shown with the predictions of its first run that has any in `predictions/`.
        limit: the number of images at most; fewer if there are many variants (`MAPS`).

    Returns:
        The pictures, and remarks on what is not shown and why. As far as the limit allows, they include the most
        different images of every pair of variants. The pictures are None if fewer than two variants have predictions,
        if the data cannot be read, or if none of the images can be used.
    """
    runs = {variant.label: run for variant in variants if (run := _predicting_run(variant)) is not None}
    without = [variant.label for variant in variants if variant.label not in runs]
    remarks = []
    if without:
        remarks.append(
            f"There are no predictions of {listing(without)}. Write them with `segrefine evaluate checkpoint=RUN/"
            f"{RunFolder.BEST} save_predictions=true`."
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
    """Return the variant's first run that saved a label map of any image, or None."""
    trained = (run for whole in variant.runs for run in whole.trained)
    return next((run for run in trained if any(run.folder.labels(name).is_file() for name in run.images)), None)
