"""Divide the labeled images of train and val into folds for cross-validation.

A fold's images are val in one run and train in the others. Neighboring frames of a sequence are nearly the same
picture, so a sequence is cut into blocks of successive frames, one for each fold.
"""

import hashlib
import logging
import os
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge

from segrefine.core.errors import UserError
from segrefine.core.frames import find_frame
from segrefine.core.options import Count, Whole
from segrefine.data.datamodule import SegmentationDataModule

log = logging.getLogger(__name__)

MIN_BLOCK = 5
"""Frames of the shortest block. A sequence too short for such blocks stays whole, since most of its frames would be
next to a border. Our choice: it lets CamVid's shortest drive, of 62 labeled frames, be cut for ten folds."""


@dataclass(frozen=True, kw_only=True)
class FoldOptions(SegmentationDataModule.Options):
    """Options of a data module that can be divided into folds.

    Attributes:
        fold: the fold that is val, from 0; None for the data's own train and val.
        folds: number of folds.
        fold_gap: train skips frames whose number is less than this from a frame of val in the same sequence.
    """

    fold: Whole | None = None
    folds: Annotated[int, Ge(2)] | None = None
    fold_gap: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.fold is None) != (self.folds is None):
            raise UserError("Give both datamodule.fold and datamodule.folds, such as fold=0 and folds=4, or neither.")
        if self.fold_gap is not None and self.folds is None:
            raise UserError(f"datamodule.fold_gap={self.fold_gap} needs datamodule.fold and datamodule.folds.")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise UserError(
                f"datamodule.fold={self.fold} should be 0 to {self.folds - 1}: the folds of datamodule.folds="
                f"{self.folds} are counted from 0."
            )


class Member(NamedTuple):
    """An image to divide.

    Attributes:
        split: its own split.
        id: its id in that split.
        name: its id among all images.
        sequence: the sequence that it is a frame of; None for an image by itself.
        position: the frame's number; for an image by itself its place in a fixed random order.
    """

    split: str
    id: str
    name: str
    sequence: str | None
    position: int


def take_fold(own: Mapping[str, Iterable[str]], options: FoldOptions, kind: str | None) -> dict[str, list[Member]]:
    """Return the images of train and val, and log how many there are.

    Args:
        own: the ids of the data's own train and val.
        options: with a fold, and a `sequence_pattern` if the data module has one.
        kind: the name of the data module, which tells the frames (`segrefine.core.frames`).

    Raises:
        UserError: the folds are too many, or `sequence_pattern` finds no frame.
    """
    assert options.folds is not None
    pattern = getattr(options, "sequence_pattern", None)
    members = pool(own, {"kind": kind, "sequence_pattern": pattern})
    if pattern and all(member.sequence is None for member in members):
        raise UserError(
            f"datamodule.sequence_pattern={pattern} finds no frame among the ids of train and val, such as "
            f"{members[0].id!r}. Correct it, or set it to null to divide the images as independent ones."
        )
    numbers = number_folds(members, options.folds)
    val = [member for member in members if numbers[member.name] == options.fold]
    train = [member for member in members if numbers[member.name] != options.fold]
    if options.fold_gap is not None:
        train = drop_neighbors(train, val, options.fold_gap)
    sizes = Counter(numbers.values())
    log.info(
        f"datamodule.fold={options.fold}: {len(train)} images of train and {len(val)} of val. The {options.folds} "
        f"folds have {', '.join(str(sizes[fold]) for fold in range(options.folds))} images."
    )
    return {"train": train, "val": val}


def pool(own: Mapping[str, Iterable[str]], options: Mapping[str, Any]) -> list[Member]:
    """Collect the images of several splits: split -> ids. `options` are those of `find_frame`.

    If two splits share ids, each name gets its split in front, as in `train_0001`.
    """
    pairs = [(split, name) for split, names in own.items() for name in names]
    unique = len({name for _, name in pairs}) == len(pairs)
    members = []
    for split, name in pairs:
        prefix, frame = "" if unique else f"{split}_", find_frame(name, options)
        sequence, position = (None, random_position(prefix + name)) if frame is None else (prefix + frame[0], frame[1])
        members.append(Member(split, name, prefix + name, sequence, position))
    return members


def random_position(name: str) -> int:
    """Return a number that depends on the name alone: the same in every run, process and version of NumPy."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest())


def number_folds(members: Sequence[Member], folds: int) -> dict[str, int]:
    """Return the fold of each name, 0..folds-1.

    Fold k gets the k-th block of each sequence, and of the images by themselves in their random order. A sequence that
    is too short for blocks of `MIN_BLOCK` frames goes whole to the smallest fold. Without these the folds differ by one
    image at most. UserError if a fold would have no image.
    """
    if folds > len(members):
        raise UserError(f"datamodule.folds={folds} is more than the {len(members)} images of train and val.")
    sequences: dict[str | None, list[Member]] = {}
    for member in sorted(members, key=lambda member: (member.position, member.name)):
        sequences.setdefault(member.sequence, []).append(member)
    sizes, numbers = [0] * folds, dict[str, int]()
    for sequence in sorted(sequences, key=lambda name: (-len(sequences[name]), name or "")):
        frames = sequences[sequence]
        smallest = sorted(range(folds), key=sizes.__getitem__)
        if sequence is not None and len(frames) < folds * MIN_BLOCK:
            blocks = {smallest[0]: len(frames)}
        else:
            each, rest = divmod(len(frames), folds)
            blocks = {fold: each + (fold in smallest[:rest]) for fold in range(folds)}
        order = [fold for fold, size in blocks.items() for _ in range(size)]
        numbers |= {frame.name: fold for frame, fold in zip(frames, order, strict=True)}
        sizes = [size + blocks.get(fold, 0) for fold, size in enumerate(sizes)]
    if 0 in sizes:
        raise UserError(
            f"datamodule.folds={folds} would leave a fold without images: a sequence of fewer than "
            f"{folds * MIN_BLOCK} frames ({MIN_BLOCK} a fold) stays whole. Set datamodule.folds to a lower number."
        )
    return numbers


def drop_neighbors(train: Sequence[Member], val: Sequence[Member], gap: int) -> list[Member]:
    """Return `train` without the frames whose number is less than `gap` from a frame of val in the same sequence."""
    positions: dict[str, list[int]] = {}
    for member in sorted(val, key=lambda member: member.position):
        if member.sequence is not None:
            positions.setdefault(member.sequence, []).append(member.position)

    def near(member: Member) -> bool:
        others = positions.get(member.sequence or "", [])
        place = bisect(others, member.position)
        return any(abs(other - member.position) < gap for other in others[max(place - 1, 0) : place + 1])

    return [member for member in train if member.sequence is None or not near(member)]
