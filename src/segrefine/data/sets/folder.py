"""A user's own images and masks, paired by folder or by list files."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval
from pydantic import BeforeValidator

from segrefine.core.channels import RGB
from segrefine.core.errors import BadFileError, UserError, listing
from segrefine.core.frames import compile_pattern
from segrefine.core.labels import VOID
from segrefine.core.registry import register_datamodule
from segrefine.data.datamodule import SPLITS
from segrefine.data.files import LABELS_CHECKED, Example, FileDataModule, evenly_spaced, has_files, read_lines
from segrefine.data.label_code import LabelCode
from segrefine.io.images import EXTRA, Channels, find_images, read_label

log = logging.getLogger(__name__)


def _unquoted(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


LabelValue = Annotated[int, BeforeValidator(_unquoted), Interval(ge=0, le=65535)]
"""A value in the masks, which have up to 16 bits. As a key of a mapping it may be quoted."""


@register_datamodule("folder")
class FolderDataModule(FileDataModule):
    """A user's data: images/{train,val,test} and masks/{train,val,test} with equal stems, or a list file for each.

    Where images have more channels than RGB, the further ones are in extra/{train,val,test}, again with equal stems.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(FileDataModule.Options):
        """Options of `conf/datamodule/folder.yaml`.

        Attributes:
            classes: a file of names, one a line, or the names; None for as many as the masks' highest value implies.
            label_map: {value in the masks: class, or 255 for void}; None if values are classes as they are.
            void: the value in the masks that does not count; label_map takes precedence.
            sequence_pattern: a regular expression with two groups that finds in an image's id the name of the sequence
                that it is a frame of, and the frame's number; None if images are independent.
            in_channels: 3 for RGB, 1 for gray images, 4 for RGB and a gray image in `extra`, 6 for a color image there.
            train_list: a file of lines "image mask", or "image mask extra", with paths relative to root; None to use
                the folders.
            val_list: the same for val.
            test_list: the same for test.
        """

        classes: str | Sequence[str | int] | None = None
        label_map: Mapping[LabelValue, LabelValue] | None = None
        void: LabelValue | None = VOID
        sequence_pattern: str | None = None
        in_channels: Channels = 3
        train_list: str | None = None
        val_list: str | None = None
        test_list: str | None = None

    expects = (
        "It should hold images/train, images/val and masks/train, masks/val (images/test and masks/test if there is a "
        "test split) with files of equal stems; or name list files in datamodule.train_list and val_list."
    )

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__(options, run_seed, test_split)
        names = options.classes
        self.class_names = names if isinstance(names, str | None) else [str(name) for name in names]
        self.label_map, self.void = options.label_map or None, options.void
        self.lists = {split: getattr(options, f"{split}_list") for split in SPLITS}
        self.in_channels = options.in_channels
        self._unreadable: list[BadFileError] = []
        if options.sequence_pattern:
            compile_pattern(options.sequence_pattern)

    @cached_property
    def classes(self) -> list[str]:
        if self.class_names is None:
            return [f"class {index}" for index in range(self._count_classes())]
        names = self._names_from_file(self.class_names) if isinstance(self.class_names, str) else self.class_names
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(
                f"datamodule.classes names {listing(repeated)} more than once. Give each class its own name."
            )
        return names

    @cached_property
    def code(self) -> LabelCode:
        """The code of label values: `label_map`, or the classes as they are. Both with `void`."""
        count = self.num_classes
        if not 1 <= count <= VOID:
            raise UserError(f"datamodule.classes gives {count} classes; there can be 1 to {VOID}.")
        meaning = {} if self.void is None else {self.void: VOID}
        if self.label_map is None:
            return LabelCode({value: value for value in range(count)} | meaning, count)
        for value, target in self.label_map.items():
            if not (0 <= target < count or target == VOID):
                raise UserError(
                    f"datamodule.label_map maps {value} to {target}, but classes are 0..{count - 1} and void is {VOID}."
                )
        return LabelCode({**meaning, **self.label_map}, count)

    @property
    def has_test(self) -> bool:
        return self.lists["test"] is not None or has_files(self.root / "masks" / "test")

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self._unreadable:  # classes were counted without them
            raise self._unreadable[0]
        counted = self.class_names is None  # which looked at every mask
        if stage in (None, "fit") and not counted and self.label_map is None and self.void == VOID:
            self._refuse_binary()

    def _refuse_binary(self) -> None:
        """Refuse masks of only 0 and 255: a few, and if these hold nothing else, all of them."""
        dataset = self.dataset("train")
        for few in (LABELS_CHECKED, len(dataset)):
            labels = (dataset.read_label(index) for index in evenly_spaced(len(dataset), few))
            values = {value for label in labels for value in label.unique().tolist()}
            if values != {0, VOID}:
                return
        refuse_binary(values)

    def examples(self, split: str) -> list[Example]:
        name, beyond_rgb = self.lists[split], self.in_channels > RGB
        if name is not None:
            return read_list(self.root / Path(name).expanduser(), self.root, beyond_rgb)
        pairs = self.pairs(self.root / "images" / split, self.root / "masks" / split)
        if not beyond_rgb:
            return pairs
        folder = self.root / "extra" / split
        if not folder.is_dir():
            raise UserError(
                f"datamodule.in_channels={self.in_channels}: there is no folder {folder}. It should hold a "
                f"{EXTRA[self.in_channels]} image for each image, of the same name."
            )
        files = find_images(folder)  # of the same ids; a missing one is reported as `pairs` has it
        return [each._replace(extra=files.get(each.id, folder / f"{each.id}.*")) for each in pairs]

    def _names_from_file(self, name: str) -> list[str]:
        path = self.root / Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"datamodule.classes={name}: there is no file {path}. It should hold a class name a line.")
        return [line.strip() for line in read_lines(path) if line.strip()]

    def _count_classes(self) -> int:
        """Count the classes from the label map, or by reading every mask of train and val."""
        if self.label_map is not None:
            values = set(self.label_map.values()) - {VOID}
        else:
            examples = [example for split in ("train", "val") for example in self.list_once(split)]
            paths = [example.label for example in examples if example.label.is_file()]  # the others are missed later
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(distinct, paths))
            self._unreadable = [each for each in found if isinstance(each, BadFileError)]
            values = {int(value) for each in found if not isinstance(each, BadFileError) for value in each}
            if self.void == VOID:
                refuse_binary(values)
            values -= {self.void}
        count = max(values, default=-1) + 1
        log.info("datamodule.classes is null: counted %d classes in the masks.", count)
        if absent := sorted(set(range(count)) - values):
            log.warning(
                f"The masks' highest value is {count - 1}, but {len(absent)} of the lower ones never occur: "
                f"{listing(absent)}. If the values are not class numbers, give datamodule.classes or label_map."
            )
        return count


def distinct(path: Path) -> np.ndarray | BadFileError:
    """Return the values that occur in a mask, or what is wrong with it."""
    try:
        return np.unique(read_label(path))
    except BadFileError as error:
        return error


def read_list(path: Path, root: Path, extra: bool = False) -> list[Example]:
    """Read examples from lines "image mask", or with `extra` "image mask extra", with paths relative to `root`.

    The id is the image's path without its extension. UserError for no such file, or a line of other than so many paths.
    """
    wanted = '"image mask extra", three paths' if extra else '"image mask", two paths'
    if not path.is_file():
        raise UserError(f"There is no list file {path}. Paths of lists are relative to datamodule.root.")
    examples = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        names = line.split()
        if len(names) != 2 + extra:
            raise UserError(f'{path}, line {number}: expected {wanted} without spaces, not "{line}".')
        files = [root / name for name in names]
        examples.append(Example(Path(os.path.splitext(names[0])[0]).as_posix(), *files))
    return examples


def refuse_binary(values: set[int]) -> None:
    """Raise UserError for masks of only 0 and 255: most often 255 is the foreground, which would be ignored as void."""
    if values == {0, VOID}:
        raise UserError(
            "The masks hold only 0 and 255, and 255 is void, so only class 0 would count. If 255 is the "
            "foreground, set 'datamodule.label_map={0:0,255:1}' (in quotes); if it really is void, {0:0,255:255}."
        )
