"""Translate the values in label files to classes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segrefine.core.errors import BadFileError, listing
from segrefine.core.labels import VOID

VALUES = 2**16
"""Values in label files are below this."""

_STRANGE = 254
"""Marks a value without a meaning in a table of bytes."""


class LabelCode:
    """The meaning of the values in label files: `meaning` maps a value, 0..65535, to a class 0..K-1 or to 255, void."""

    def __init__(self, meaning: Mapping[int, int], num_classes: int) -> None:
        self.num_classes = num_classes
        self.table = np.full(VALUES, -1, np.int16)
        for value, target in meaning.items():
            self.table[value] = target
        self._bytes = np.where(self.table < 0, _STRANGE, self.table)[:256].astype(np.uint8).tobytes()

    @classmethod
    def counted(cls, num_classes: int, first: int = 0, void: tuple[int, ...] = (VOID,)) -> "LabelCode":
        """Create a code whose classes are consecutive values from `first` up."""
        classes = {first + index: index for index in range(num_classes)}
        return cls(classes | dict.fromkeys(void, VOID), num_classes)

    def encode(self, label: np.ndarray) -> np.ndarray:
        """Return the stored values (H, W) uint8 of classes (H, W): the inverse of `decode`, for codes whose values fit.

        If several values mean one class, the lowest is used.
        """
        values = [int(np.flatnonzero(self.table == index)[0]) for index in range(self.num_classes)]
        return np.array(values, np.uint8)[label]

    def decode(self, values: np.ndarray, path: Path) -> Tensor:
        """Return the label (H, W) uint8 of the stored values of a file; BadFileError if one has no meaning."""
        if values.dtype == np.uint8 and self.num_classes <= _STRANGE:  # nearly always, and several times as fast
            label = values.tobytes().translate(self._bytes)
            if _STRANGE not in label:
                return torch.frombuffer(bytearray(label), dtype=torch.uint8).view(values.shape)
        if values.min() < 0 or values.max() >= len(self.table):
            strange = values[(values < 0) | (values >= len(self.table))]
        else:
            label = self.table[values]
            if label.min() >= 0:
                return torch.from_numpy(label.astype(np.uint8))
            strange = values[label < 0]
        raise BadFileError(
            f"{path} holds label value {listing(np.unique(strange).tolist())}, which is neither one of the "
            f"{self.num_classes} classes nor void. Known values: {ranges(np.flatnonzero(self.table >= 0))}."
        )


def ranges(values: np.ndarray) -> str:
    """Return sorted integers in short form: 0..10, 255."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
