"""Keep decoded examples in a folder, so that each is decoded only once."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segrefine.core.channels import RGB
from segrefine.core.errors import UserError
from segrefine.io.atomic import replacing

Pair = tuple[Tensor, Tensor]
"""Image (C, H, W) and label (H, W), uint8."""

HEADER = 8  # bytes: height and width


class Cache:
    """A file of (C + 1) * H * W bytes and a header for each example, mapped into memory by all processes that read it.

    A read returns exactly what was decoded. A source file that changes is decoded again.

    Args:
        folder: the folder of the files; one in /dev/shm keeps them in memory.
        meaning: bytes that change whenever the same label files mean something else.
        channels: C of the images.
    """

    def __init__(self, folder: Path, meaning: bytes, channels: int = 3) -> None:
        self.folder, self.channels = folder, channels
        self.meaning = hashlib.sha1(meaning + (b"" if channels == RGB else bytes([channels]))).digest()

    def get(self, sources: Sequence[Path], decode: Callable[[], Pair]) -> Pair:
        """Return `decode()` of these files, from the cache if it is there; UserError if that cannot be written to."""
        try:
            path = self.folder / f"{self._key(sources)}.bin"
        except OSError:  # a source is not there, which decoding says better
            return decode()
        try:
            stored = np.memmap(path, np.uint8, mode="c")  # its pages are shared until somebody writes to them
            height, width = stored[:HEADER].view(np.int32).tolist()
            image, label = np.split(stored[HEADER:], [self.channels * height * width])
            image, label = image.reshape(height, width, self.channels), label.reshape(height, width)
        except (OSError, ValueError):  # not there, or damaged
            return self._put(path, decode())
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)

    def _put(self, path: Path, pair: Pair) -> Pair:
        """Write height, width, the image with channels last, and the label."""
        image, label = pair
        try:
            with replacing(path) as part, part.open("wb") as file:
                for array in (np.array(label.shape, np.int32), image.permute(1, 2, 0).numpy(), label.numpy()):
                    file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise UserError(
                f"datamodule.cache={self.folder} cannot be written: {error}. Free space there, give another folder, or "
                "set datamodule.cache=null."
            ) from error
        return pair

    def _key(self, sources: Sequence[Path]) -> str:
        parts = [self.meaning]
        for path in sources:
            about = path.stat()
            parts.append(f"{path.absolute()} {about.st_size} {about.st_mtime_ns}".encode())
        return hashlib.sha1(b"\0".join(parts)).hexdigest()
