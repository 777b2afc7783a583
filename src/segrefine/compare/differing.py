"""Read the data and predictions of runs, and find the images in which the variants differ most.

Importing this module loads PyTorch, as data modules do, so `pictures.py` imports it only if runs have predictions.
Shapes: V variants, H W size.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
from PIL import Image

from segrefine.compare.pictures import MAX_SIDE, Picture, Shares
from segrefine.core.channels import to_rgb
from segrefine.core.errors import BadFileError
from segrefine.core.labels import VOID
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.io.images import read_label
from segrefine.runs.read import Run


class Source:
    """The data and predictions of runs. `faults` records, by image name, why an image cannot be used."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.datamodule = _create_datamodule(runs[0])
        self.dataset = self.datamodule.dataset(runs[0].summary.split)
        self.indices = {name: index for index, name in enumerate(self.dataset.ids)}
        self.faults: dict[str, BadFileError] = {}

    def most_different(self) -> Iterator[Picture]:
        """Yield every usable image, in the order of `rank`."""
        names = self.runs[0].images
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            found = zip(names, pool.map(self.shares, names), strict=True)
            shares = {name: share for name, share in found if share is not None}
        for name in rank(shares):
            try:
                image, truth = self.dataset.read(self.indices[name])
                pixels, predictions = to_rgb(image).permute(1, 2, 0).numpy(), self.predictions(name, tuple(truth.shape))
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
        """Return the label map of an image, (H, W) uint8."""
        if name not in self.indices:
            raise BadFileError(f"the data no longer has an image {name}.")
        return self.dataset.read_label(self.indices[name]).numpy()

    def predictions(self, name: str, size: tuple[int, ...]) -> np.ndarray:
        """Read the predictions of all variants for an image.

        Returns:
            (V, H, W) uint8.

        Raises:
            BadFileError: a prediction is missing or has another size.
        """
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
    """Return the fractions of one image from its truth (H, W) and predictions (V, H, W); 0 if all of it is void."""
    counted = truth != VOID
    maps, pixels = predictions[:, counted], max(int(counted.sum()), 1)
    differing = np.zeros((len(maps), len(maps)))
    for one, other in combinations(range(len(maps)), 2):
        differing[one, other] = differing[other, one] = np.count_nonzero(maps[one] != maps[other]) / pixels
    return Shares(differing, np.count_nonzero(maps != truth[counted], axis=1) / pixels)


def rank(shares: Mapping[str, Shares]) -> list[str]:
    """Return the names of the images, the most instructive first.

    The first round holds, for each pair of variants, the image in which they differ most. The second round holds the
    next one of each pair, and so on. Within a round, the most different images come first.
    """
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
    """Reduce the picture so that neither side is longer than `MAX_SIDE` pixels."""
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
