"""Data sets of image and label files: decode label values, divide into folds, check files before training."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from segrefine.core.errors import BadFileError, UserError, listing
from segrefine.core.registry import DATAMODULES
from segrefine.data.cache import Cache
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.data.dataset import SegmentationDataset, Transform
from segrefine.data.exclude import read_exclude
from segrefine.data.folds import FoldOptions, take_fold
from segrefine.data.label_code import LabelCode
from segrefine.io.download import Archive, provide
from segrefine.io.images import NameOf, check_channels, find_images, image_size, read_channels, read_label, stem_of
from segrefine.io.lock import locked

log = logging.getLogger(__name__)

HEADERS_CHECKED = 200
LABELS_CHECKED = 8

ReadValues = Callable[[Path], np.ndarray]
"""Reads the stored values (H, W) of a label file, integers from 0 up."""


class Example(NamedTuple):
    """An image file with its label file; the id names it within its split.

    `extra` is the file of the channels behind red, green and blue, where the data has any.
    """

    id: str
    image: Path
    label: Path
    extra: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the example."""
        return [path for path in (self.image, self.label, self.extra) if path is not None]


class FileDataset(SegmentationDataset):
    """Examples that are read from files on demand."""

    def __init__(
        self,
        examples: list[Example],
        code: LabelCode,
        transform: Transform | None = None,
        read_values: ReadValues = read_label,
        cache: Path | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__([example.id for example in examples], transform)
        self.cache = Cache(cache, code.table.tobytes(), in_channels) if cache else None
        self.examples, self.code, self.read_values, self.in_channels = examples, code, read_values, in_channels

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            return self._decode(index)
        return self.cache.get(self.examples[index].files, partial(self._decode, index))

    def _decode(self, index: int) -> tuple[Tensor, Tensor]:
        example = self.examples[index]
        image, label = read_channels(example.image, example.extra, self.in_channels), self.read_label(index)
        self._check_size(example, tuple(image.shape[1:]), tuple(label.shape))
        return image, label

    def read_label(self, index: int) -> Tensor:
        path = self.examples[index].label
        return self.code.decode(self.read_values(path), path)

    def check(self) -> None:
        """Raise UserError for a missing file, or an unusable one of a sample spread over the split.

        The sample compares the sizes and channels of images and labels by their headers, and decodes labels.
        """
        files = [path for example in self.examples for path in example.files]
        absent = [str(path) for path in files if not path.is_file()]
        if absent:
            raise UserError(f"{len(absent)} of the {len(files)} images and labels are missing: {listing(absent)}.")
        for index in evenly_spaced(len(self), HEADERS_CHECKED):
            example = self.examples[index]
            self._check_size(example, image_size(example.image), self._label_size(example.label))
            check_channels(example.image, example.extra, self.in_channels)
        for index in evenly_spaced(len(self), LABELS_CHECKED):
            self.read_label(index)

    def one_size(self) -> bool:
        """Compare the headers, up to the first that differs.

        Label headers come first, since Pillow decodes a PNG for its EXIF tag.
        """
        sizes = (
            image_size(example.image) if example.label.suffix == ".mat" else self._label_size(example.label)
            for example in self.examples
        )
        first = next(sizes)
        return all(size == first for size in sizes)

    def _label_size(self, path: Path) -> tuple[int, ...]:
        """Return height and width, from the header alone if the file has one."""
        return self.read_values(path).shape if path.suffix == ".mat" else image_size(path, upright=False)

    @staticmethod
    def _check_size(example: Example, image: tuple[int, ...], label: tuple[int, ...]) -> None:
        if image == label:
            return
        hint = ""
        if (stored := image_size(example.image, upright=False)) == label:
            hint = f" As stored, before the turn its EXIF tag asks for, the image is {stored}: save it without the tag."
        raise BadFileError(
            f"{example.image} is {image} (height, width), but its label {example.label} is {label}.{hint}"
        )


class FileDataModule(SegmentationDataModule):
    """A data module over files below `root`.

    A subclass defines its `code` and the `examples` of a split, and describes the expected files in `expects`.
    """

    expects: str

    archives: tuple[Archive, ...] = ()
    """What `download` fetches; empty if the owner requires a login or an agreement."""

    @dataclass(frozen=True, kw_only=True)
    class Options(FoldOptions):
        """Options of data sets on disk."""

        root: str | None = None
        download: bool = False
        cache: str | None = None
        exclude: str | None = None

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__(options, run_seed, test_split)
        self.cache = Path(options.cache).expanduser() if options.cache else None
        self._listed: dict[str, list[Example]] = {}

    @property
    def downloadable(self) -> bool:
        """Whether `fetch` can download the data."""
        return bool(self.archives)

    def prepare_data(self) -> None:
        """Download what is missing, if asked to; UserError if that cannot be done.

        Lightning calls this before `setup`, once on each machine.
        """
        if not self.options.download:
            return
        if not self.downloadable:
            raise UserError(f"datamodule.download=true: datamodule={self.name} cannot be downloaded. {self.expects}")
        if self.options.root is None:
            raise UserError("Set datamodule.root to the folder that the download goes to.")
        root = Path(self.options.root).expanduser()
        with locked(root / ".download.lock"):
            self.fetch(root)

    def fetch(self, root: Path) -> None:
        """Fetch what is missing below `root`. Nothing that is already there is fetched again."""
        provide(self.archives, root)

    @property
    def root(self) -> Path:
        """The folder of the data; UserError if it is not given or does not exist."""
        if self.options.root is None:
            raise UserError(f"Set datamodule.root to the data's folder. {self.expects}")
        root = Path(self.options.root).expanduser()
        if not root.is_dir():
            raise UserError(f"datamodule.root={self.options.root}: there is no such folder. {self.expects}")
        return root

    @property
    def code(self) -> LabelCode:
        """The meaning of the values in the label files."""
        raise NotImplementedError

    def examples(self, split: str) -> list[Example]:
        """Return the files of the data's own "train", "val" or "test"."""
        raise NotImplementedError

    @cached_property
    def excluded(self) -> dict[str, set[str]]:
        """The ids to skip by split, from the file `exclude`. Logs how many there are."""
        if not self.options.exclude:
            return {}
        excluded = read_exclude(Path(self.options.exclude).expanduser())
        counts = ", ".join(f"{len(excluded.get(split, ()))} of {split}" for split in SPLITS)
        log.info(f"datamodule.exclude={self.options.exclude} skips {counts}")
        return excluded

    def list_once(self, split: str) -> list[Example]:
        """Return `examples`, or the fold's train or val, without the excluded ones.

        They are listed once for each split: a large folder on a network takes seconds to list.
        """
        if split not in self._listed and self.options.fold is not None and split != "test":
            self._listed |= self._list_fold()
        elif split not in self._listed:
            self._listed[split] = self._without_excluded(split, self.examples(split))
        return self._listed[split]

    def _list_fold(self) -> dict[str, list[Example]]:
        """Return train and val of the fold. An excluded image moves no other one: the images are divided with it."""
        own = {split: {each.id: each for each in self.examples(split)} for split in ("train", "val")}
        kept = {split: {each.id for each in self._without_excluded(split, [*own[split].values()])} for split in own}
        taken = {example.image for example in own["train"].values()}  # list files may name an image twice
        own["val"] = {name: example for name, example in own["val"].items() if example.image not in taken}
        fold = take_fold(own, self.options, DATAMODULES.name_of(type(self)))
        sides = {
            side: [own[each.split][each.id]._replace(id=each.name) for each in members if each.id in kept[each.split]]
            for side, members in fold.items()
        }
        for side, examples in sides.items():
            if not examples:
                raise UserError(f"datamodule.fold_gap and datamodule.exclude leave no image of the fold's {side}.")
        return sides

    def _without_excluded(self, split: str, examples: list[Example]) -> list[Example]:
        excluded, known = self.excluded.get(split, set()), [example.id for example in examples]
        option = f"datamodule.exclude={self.options.exclude}"
        if unknown := sorted(excluded.difference(known)):
            nearest = get_close_matches(unknown[0], known, 1, cutoff=0)
            hint = f" The nearest id is {nearest[0]!r}." if nearest else ""
            raise UserError(f"{option}: {split} has no example {unknown[0]!r}.{hint}")
        remaining = [example for example in examples if example.id not in excluded]
        if examples and not remaining:
            raise UserError(f"{option} excludes every image of {split}: it names all {len(examples)}.")
        return remaining

    def read_values(self, path: Path) -> np.ndarray:
        """Read the stored values of a label file."""
        return read_label(path)

    def dataset(self, split: str, transform: Transform | None = None) -> FileDataset:
        return FileDataset(self.list_once(split), self.code, transform, self.read_values, self.cache, self.in_channels)

    def folder(self, *places: str) -> Path:
        """Return the first of `places`, relative to `root`, that is a folder; UserError if none is."""
        for place in places:
            if (self.root / place).is_dir():
                return self.root / place
        raise UserError(
            f"There is no folder {' or '.join(places)} in datamodule.root={self.options.root}. {self.expects}"
        )

    def listed(self, file: Path, images: Path, labels: Path, label_end: str = ".png") -> list[Example]:
        """List examples by the stems in a list file, one a line: JPEGs in one folder, labels in another."""
        return [Example(stem, images / f"{stem}.jpg", labels / (stem + label_end)) for stem in self.stems(file)]

    def stems(self, file: Path) -> list[str]:
        """Return the lines of a list file; UserError if there is no such file, or it is not text."""
        if not file.is_file():
            raise UserError(f"There is no list file {file}. {self.expects}")
        return " ".join(read_lines(file)).split()

    def pairs(
        self, images: Path, labels: Path, image_id: NameOf = stem_of, label_id: NameOf = stem_of
    ) -> list[Example]:
        """Pair the images and labels that have the same id, by default their stem; UserError if there are no images.

        A file without an id is skipped. An image without a label, or a label without an image, is paired with the
        missing name, ID.*. The missing file is then reported by name when it is read or checked.
        """
        for folder in (images, labels):
            if not folder.is_dir():
                raise UserError(f"There is no folder {folder}. {self.expects}")
        image_files, label_files = find_images(images, image_id), find_images(labels, label_id)
        if not image_files:
            raise UserError(f"There are no image files in {images}.")
        return [
            Example(name, image_files.get(name, images / f"{name}.*"), label_files.get(name, labels / f"{name}.*"))
            for name in sorted(image_files.keys() | label_files.keys())
        ]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file; UserError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()  # Windows' Notepad marks the order of bytes
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Save it as a list of lines in UTF-8.") from error


def has_files(folder: Path) -> bool:
    """Return whether the folder holds anything but hidden files, such as .gitkeep and .DS_Store."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` indices, evenly spread over 0..count-1."""
    return [index * count // wanted for index in range(wanted)] if count > wanted else list(range(count))
