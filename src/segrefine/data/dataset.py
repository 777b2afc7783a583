"""Define the map-style data set that every source of images implements: how an item is read and transformed."""

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segrefine.core.errors import UserError
from segrefine.data.sampler import Draw

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps an image (C, H, W) uint8 and a label (H, W) uint8 to a pair of the same types, possibly of another size."""


class Item(TypedDict):
    """One example: image, label, id and index in the split.

    The image is (C, H, W) uint8, RGB unless the data module has other `in_channels`. The label is (H, W) uint8 with
    classes 0..K-1 and 255 for void. The id is the file stem or similar.
    """

    image: Tensor
    label: Tensor
    id: str
    index: int


class SegmentationDataset(Dataset[Item]):
    """Images with label maps. A subclass implements `read`. The `transform`, if any, is applied to what was read.

    Raises:
        UserError: There are no ids.
    """

    def __init__(self, ids: list[str], transform: Transform | None = None) -> None:
        if not ids:
            raise UserError(
                "A split holds no images. Check datamodule.root and the options that set the splits' sizes."
            )
        self.ids, self.transform = ids, transform

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an example's image (C, H, W) uint8 and label (H, W) uint8; BadFileError if a file cannot be used."""
        raise NotImplementedError

    def read_label(self, index: int) -> Tensor:
        """Read the label (H, W) uint8 of one example, for statistics that need no image."""
        return self.read(index)[1]

    def check(self) -> None:
        """Run cheap checks before training. Raise UserError for what a user can fix."""

    def one_size(self) -> bool:
        """Return whether all images have the same size. Also return True if only reading them all could tell."""
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
