"""The map-style data set every source of images implements: how an item is read, and what is done to it afterwards."""

from collections.abc import Callable
from typing import NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segrefine.core.errors import BadFileError, UserError
from segrefine.data.sampler import Draw

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps image (3, H, W) uint8 and label (H, W) uint8 to a pair of the same kinds, perhaps of another size."""


class Item(TypedDict):
    """One example: image (3, H, W) uint8 RGB, label (H, W) uint8 with 0..K-1 and 255 void, id (file stem or the like)
    and its index in the split."""

    image: Tensor
    label: Tensor
    id: str
    index: int


class LeftOut(NamedTuple):
    """Stands for an example that cannot be used: its id, and why."""

    id: str
    reason: str


Read = TypeVar("Read")


class SegmentationDataset(Dataset[Item | LeftOut]):
    """Images with label maps. A subclass says how to `read` one; `transform`, if any, is applied to what was read.

    `skip_bad`: an example with a bad file gives a `LeftOut` in place of an `Item`, and of the error."""

    def __init__(self, ids: list[str], transform: Transform | None = None, skip_bad: bool = False) -> None:
        self.ids = ids
        self.transform = transform
        self.skip_bad = skip_bad

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) uint8 RGB and label (H, W) uint8 of one example. Raises BadFileError."""
        raise NotImplementedError

    def read_label(self, index: int) -> Tensor:
        """Label (H, W) uint8 of one example; for statistics that need no image."""
        return self.read(index)[1]

    def attempt(self, read: Callable[[int], Read], index: int) -> Read | LeftOut:
        """`read(index)`, or with `skip_bad` what stands for an example with a bad file."""
        try:
            return read(index)
        except BadFileError as error:
            if not self.skip_bad:
                raise
            return LeftOut(self.ids[index], str(error))

    def first_label(self) -> Tensor:
        """Label (H, W) uint8 of the first example, with `skip_bad` of the first that can be used; UserError if none
        can."""
        first: LeftOut | None = None
        for index in range(len(self)):
            found = self.attempt(self.read, index)
            if not isinstance(found, LeftOut):
                return found[1]
            first = first or found
        reason = "" if first is None else f" The first: {first.reason}"
        raise UserError(f"None of a split's {len(self)} images can be used.{reason}")

    def check(self) -> None:
        """Cheap checks before training; raises UserError for what a user can put right."""
        if not self.ids:
            raise UserError(
                "A split holds no images. Check datamodule.root and the options that set the splits' sizes."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | Draw) -> Item | LeftOut:
        index, seed = key if isinstance(key, Draw) else (key, None)
        found = self.attempt(self.read, index)
        if isinstance(found, LeftOut):
            return found
        image, label = found
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # which the transform draws from
        if self.transform is not None:
            image, label = self.transform(image, label)
        return {"image": image, "label": label, "id": self.ids[index], "index": index}
