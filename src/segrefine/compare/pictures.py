"""The images in which variants differ most, with what each predicts for them: the pictures of `compare.py`'s page.

V variants, H W size, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, islice

import numpy as np
from PIL import Image

from segrefine.compare.variants import Variant
from segrefine.core.errors import BadFileError, UserError, listing
from segrefine.core.labels import VOID
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.io.images import read_label
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
    try:
        source = _Source(list(runs.values()))
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


class _Source:
    """The runs' data and predictions. `faults` gathers, by image, why one cannot be used."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.datamodule = _create_datamodule(runs[0])
        self.dataset = self.datamodule.dataset(runs[0].summary.split)
        self.indices = {name: index for index, name in enumerate(self.dataset.ids)}
        self.faults: dict[str, BadFileError] = {}

    def most_different(self) -> Iterator[Picture]:
        """Every image that can be used, in the order of `rank`."""
        names = self.runs[0].images
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            found = zip(names, pool.map(self.shares, names), strict=True)
            shares = {name: share for name, share in found if share is not None}
        for name in rank(shares):
            try:
                image, truth = self.dataset.read(self.indices[name])
                pixels, predictions = image.permute(1, 2, 0).numpy(), self.predictions(name, tuple(truth.shape))
            except BadFileError as fault:
                self.faults[name] = fault
            else:
                yield _reduced(Picture(name, pixels, truth.numpy(), predictions, shares[name]))

    def shares(self, name: str) -> Shares | None:
        try:
            truth = self.truth(name)
            return measure(truth, self.predictions(name, truth.shape))
        except BadFileError as fault:
            self.faults[name] = fault
            return None

    def truth(self, name: str) -> np.ndarray:
        """(H, W) uint8."""
        if name not in self.indices:
            raise BadFileError(f"the data no longer has an image {name}.")
        return self.dataset.read_label(self.indices[name]).numpy()

    def predictions(self, name: str, size: tuple[int, ...]) -> np.ndarray:
        """(V, H, W) uint8; BadFileError if one is missing, or not of this size."""
        maps = []
        for run in self.runs:
            path = run.folder.labels(name)
            labels = read_label(path)
            if labels.shape != size:
                raise BadFileError(f"{path} is {labels.shape} (height, width), but the image's label is {size}.")
            maps.append(labels.astype(np.uint8))
        return np.stack(maps)


def _create_datamodule(run: Run) -> SegmentationDataModule:
    config = dict(run.config.get("datamodule") or {})
    # A page is no reason to fetch gigabytes, or to fill a cache.
    return build_datamodule(
        config | {option: value for option, value in {"download": False, "cache": None}.items() if option in config}
    )


def measure(truth: np.ndarray, predictions: np.ndarray) -> Shares:
    """The shares of one image by its truth (H, W) and predictions (V, H, W); 0 where all is void."""
    counted = truth != VOID
    maps, pixels = predictions[:, counted], max(int(counted.sum()), 1)
    differing = np.zeros((len(maps), len(maps)))
    for one, other in combinations(range(len(maps)), 2):
        differing[one, other] = differing[other, one] = np.count_nonzero(maps[one] != maps[other]) / pixels
    return Shares(differing, np.count_nonzero(maps != truth[counted], axis=1) / pixels)


def rank(shares: Mapping[str, Shares]) -> list[str]:
    """Images in the order in which they are worth showing: first that in which each pair of variants differs most, then
    the next of each pair, and so on; within such a round, the most different first."""
    if not shares:
        return []
    names, differing = list(shares), np.stack([share.differing for share in shares.values()])
    pairs = combinations(range(differing.shape[1]), 2)
    columns = np.stack([differing[:, one, other] for one, other in pairs], axis=1)  # (images, pairs)
    orders = np.argsort(-columns, axis=0, kind="stable")
    ranked: dict[str, None] = {}
    for order in orders:
        values = columns[order, np.arange(columns.shape[1])]
        ranked |= dict.fromkeys(names[order[pair]] for pair in np.argsort(-values, kind="stable"))
    return list(ranked)


def _reduced(picture: Picture) -> Picture:
    """With no side longer than `MAX_SIDE` pixels."""
    height, width = picture.truth.shape
    factor = min(1, MAX_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def resize(pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(size, resampling))

    return Picture(
        picture.id,
        resize(np.ascontiguousarray(picture.image), Image.Resampling.BOX),
        resize(picture.truth, Image.Resampling.NEAREST),
        np.stack([resize(labels, Image.Resampling.NEAREST) for labels in picture.predictions]),
        picture.shares,
    )
