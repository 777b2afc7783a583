"""Data sets of image and label files: pairing the files, decoding label values, and the checks before training."""

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
from segrefine.data.cache import Cache
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.data.dataset import SegmentationDataset, Transform
from segrefine.data.exclude import read_exclude
from segrefine.data.label_code import LabelCode
from segrefine.io.download import Archive, alone, provide
from segrefine.io.images import NameOf, find_images, image_size, read_image, read_label, stem_of

log = logging.getLogger(__name__)

HEADERS_CHECKED = 200
LABELS_CHECKED = 8


class Example(NamedTuple):
    """An image file with its label file; the id names it within its split."""

    id: str
    image: Path
    label: Path


ReadValues = Callable[[Path], np.ndarray]
"""Reads the stored values (H, W) of a label file, integers from 0 on."""


class FileDataset(SegmentationDataset):
    """Examples read from files when asked for."""

    def __init__(
        self,
        examples: list[Example],
        code: LabelCode,
        transform: Transform | None = None,
        read_values: ReadValues = read_label,
        cache: Path | None = None,
    ) -> None:
        super().__init__([example.id for example in examples], transform)
        self.cache = Cache(cache, code.table.tobytes()) if cache else None
        self.examples = examples
        self.code = code
        self.read_values = read_values

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        example = self.examples[index]
        if self.cache is None:
            return self._decode(index)
        return self.cache.get((example.image, example.label), partial(self._decode, index))

    def _decode(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = read_image(self.examples[index].image), self.read_label(index)
        self._check_size(self.examples[index], tuple(image.shape[1:]), tuple(label.shape))
        return image, label

    def read_label(self, index: int) -> Tensor:
        path = self.examples[index].label
        return self.code.decode(self.read_values(path), path)

    def check(self) -> None:
        """Look for every file, compare sizes of images and labels by their headers, and decode labels; of both a few,
        spread over the split."""
        files = [path for example in self.examples for path in (example.image, example.label)]
        absent = [str(path) for path in files if not path.is_file()]
        if absent:
            raise UserError(f"{len(absent)} of the {len(files)} images and labels are not there: {listing(absent)}.")
        for index in spread(len(self), HEADERS_CHECKED):
            example = self.examples[index]
            self._check_size(example, image_size(example.image), self._label_size(example.label))
        for index in spread(len(self), LABELS_CHECKED):
            self.read_label(index)

    def one_size(self) -> bool:
        """By the headers, up to the first that differs. Labels' first: Pillow decodes a PNG for its EXIF tag."""
        sizes = (
            image_size(example.image) if example.label.suffix == ".mat" else self._label_size(example.label)
            for example in self.examples
        )
        first = next(sizes)
        return all(size == first for size in sizes)

    def _label_size(self, path: Path) -> tuple[int, ...]:
        """Height and width, where there is a header to tell them, from that alone."""
        return self.read_values(path).shape if path.suffix == ".mat" else image_size(path, upright=False)

    @staticmethod
    def _check_size(example: Example, image: tuple[int, ...], label: tuple[int, ...]) -> None:
        if image == label:
            return
        stored = image_size(example.image, upright=False)
        hint = ""
        if stored == label:
            hint = f" As stored, before the turn its EXIF tag asks for, the image is {stored}: save it without the tag."
        raise BadFileError(
            f"{example.image} is {image} (height, width), but its label {example.label} is {label}.{hint}"
        )


class FileDataModule(SegmentationDataModule):
    """A data module over files below `root`; a subclass gives its `code` and the `examples` of a split, and says in
    `expects` what has to lie there."""

    expects: str

    archives: tuple[Archive, ...] = ()
    """What `download` fetches; empty where the owner asks for a login or an agreement."""

    @dataclass(frozen=True, kw_only=True)
    class Options(SegmentationDataModule.Options):
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
        """Whether `fetch` brings anything."""
        return bool(self.archives)

    def prepare_data(self) -> None:
        """Downloads what is missing, if that is asked for. Lightning calls it before `setup`, once a machine."""
        if not self.options.download:
            return
        if not self.downloadable:
            raise UserError(f"datamodule.download=true: datamodule={self.name} cannot be downloaded. {self.expects}")
        if self.options.root is None:
            raise UserError("Set datamodule.root to the folder that the download goes to.")
        root = Path(self.options.root).expanduser()
        with alone(root):
            self.fetch(root)

    def fetch(self, root: Path) -> None:
        """Bring what is missing below `root`; what is there already costs nothing."""
        provide(self.archives, root)

    @property
    def root(self) -> Path:
        """The folder of the data. Raises UserError if it is not given or not there."""
        if self.options.root is None:
            raise UserError(f"Set datamodule.root to the data's folder. {self.expects}")
        root = Path(self.options.root).expanduser()
        if not root.is_dir():
            raise UserError(f"datamodule.root={self.options.root}: there is no such folder. {self.expects}")
        return root

    @property
    def code(self) -> LabelCode:
        """What the values in the label files mean."""
        raise NotImplementedError

    def examples(self, split: str) -> list[Example]:
        """The files of "train", "val" or "test"."""
        raise NotImplementedError

    @cached_property
    def excluded(self) -> dict[str, set[str]]:
        """The ids to skip by split, from the file `exclude`; logs how many."""
        if not self.options.exclude:
            return {}
        excluded = read_exclude(Path(self.options.exclude).expanduser())
        counts = ", ".join(f"{len(excluded.get(split, ()))} of {split}" for split in SPLITS)
        log.info(f"datamodule.exclude={self.options.exclude} skips {counts}")
        return excluded

    def list_once(self, split: str) -> list[Example]:
        """Return `examples` without the excluded ones, looked up once a split: a large folder on a network takes
        seconds to list."""
        if split not in self._listed:
            self._listed[split] = self._without_excluded(split, self.examples(split))
        return self._listed[split]

    def _without_excluded(self, split: str, examples: list[Example]) -> list[Example]:
        excluded, known = self.excluded.get(split, set()), [example.id for example in examples]
        option = f"datamodule.exclude={self.options.exclude}"
        if unknown := sorted(excluded.difference(known)):
            nearest = get_close_matches(unknown[0], known, 1, cutoff=0)
            hint = f" The nearest id is {nearest[0]!r}." if nearest else ""
            raise UserError(f"{option}: {split} has no example {unknown[0]!r}.{hint}")
        remaining = [example for example in examples if example.id not in excluded]
        if examples and not remaining:
            raise UserError(f"{option} leaves no image of {split}: it names all {len(examples)}.")
        return remaining

    def read_values(self, path: Path) -> np.ndarray:
        """The stored values of a label file."""
        return read_label(path)

    def dataset(self, split: str, transform: Transform | None = None) -> FileDataset:
        return FileDataset(self.list_once(split), self.code, transform, self.read_values, self.cache)

    def folder(self, *places: str) -> Path:
        """The first of `places`, relative to `root`, that is a folder."""
        for place in places:
            if (self.root / place).is_dir():
                return self.root / place
        raise UserError(
            f"There is no folder {' or '.join(places)} in datamodule.root={self.options.root}. {self.expects}"
        )

    def listed(self, file: Path, images: Path, labels: Path, label_end: str = ".png") -> list[Example]:
        """Examples of the stems that a list file names, a line each: JPEGs in one folder, labels in another."""
        return [Example(stem, images / f"{stem}.jpg", labels / (stem + label_end)) for stem in self.stems(file)]

    def stems(self, file: Path) -> list[str]:
        """The lines of a list file."""
        if not file.is_file():
            raise UserError(f"There is no list file {file}. {self.expects}")
        return " ".join(read_lines(file)).split()

    def pairs(
        self, images: Path, labels: Path, image_id: NameOf = stem_of, label_id: NameOf = stem_of
    ) -> list[Example]:
        """`pair_files`, which for a missing folder says what was expected."""
        for folder in (images, labels):
            if not folder.is_dir():
                raise UserError(f"There is no folder {folder}. {self.expects}")
        return pair_files(images, labels, image_id, label_id)


def pair_files(images: Path, labels: Path, image_id: NameOf = stem_of, label_id: NameOf = stem_of) -> list[Example]:
    """Images and labels of the same id, by default their stems; a file without an id is skipped.

    One that lacks the other is paired with the name of what is not there, ID.*, so that it is missed by name when it is
    read or checked for. UserError if there are no images at all.
    """
    image_files, label_files = find_images(images, image_id), find_images(labels, label_id)
    if not image_files:
        raise UserError(f"There are no image files in {images}.")
    return [
        Example(name, image_files.get(name, images / f"{name}.*"), label_files.get(name, labels / f"{name}.*"))
        for name in sorted(image_files.keys() | label_files.keys())
    ]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; UserError, naming it, if it is no text."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()  # Windows' Notepad marks the order of bytes
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}). Save it as a list of lines in UTF-8.") from error


def has_files(folder: Path) -> bool:
    """Return whether the folder holds anything but hidden files, such as .gitkeep and .DS_Store."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices, evenly over 0..count-1."""
    return [index * count // wanted for index in range(wanted)] if count > wanted else list(range(count))
