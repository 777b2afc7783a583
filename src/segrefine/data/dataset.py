"""The map-style data set every source of images implements: how an item is read, and what is done to it afterwards."""

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segrefine.core.errors import UserError
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


class SegmentationDataset(Dataset[Item]):
    """Images with label maps. A subclass says how to `read` one; `transform`, if any, is applied to what was read.

    Raises:
        UserError: There are no ids.
    """

    def __init__(self, ids: list[str], transform: Transform | None = None) -> None:
        if not ids:
            raise UserError(
                "A split holds no images. Check datamodule.root and the options that set the splits' sizes."
            )
        self.ids = ids
        self.transform = transform

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) uint8 RGB and label (H, W) uint8 of one example. Raises BadFileError."""
        raise NotImplementedError

    def read_label(self, index: int) -> Tensor:
        """Label (H, W) uint8 of one example; for statistics that need no image."""
        return self.read(index)[1]

    def check(self) -> None:
        """Run cheap checks before training; raise UserError for what a user can fix."""

    def one_size(self) -> bool:
        """Return whether all images have the same size. True as well where only reading them all could tell."""
        return True

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | Draw) -> Item:
        index, seed = key if isinstance(key, Draw) else (key, None)
        image, label = self.read(index)
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # which the transform draws from
        if self.transform is not None:
            image, label = self.transform(image, label)
        return {"image": image, "label": label, "id": self.ids[index], "index": index}
