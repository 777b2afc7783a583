"""Read arrays of numbers from MATLAB files of versions 5 to 7, plain or compressed.

Implemented here because scipy.io 1.17 crashes on damaged files (a segmentation fault ends the whole process) and
allocates any amount of memory that a few compressed bytes ask for. Element types and layout: MathWorks, "MAT-File
Format", chapter 1.
"""

import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of elements that hold numbers (table 1-1)."""

MATRIX, COMPRESSED = 14, 15
STRUCT = 2  # class of an array; those from 6 to 15 are numeric (table 1-3)

ENTRIES = 10_000
"""The most elements to examine: far more than a label file has, and quick to go through."""

Element = tuple[int, memoryview]
"""Type and content."""


class Array(NamedTuple):
    """An array as stored in the file: class, dimensions, name, and the elements that follow."""

    kind: int
    sides: tuple[int, ...]
    name: str
    rest: Iterator[Element]


class MatFile:
    """The content of a file. Every method raises ValueError with a reason if it cannot read something."""

    def __init__(self, content: bytes, most: int) -> None:
        """Check the header of the file. An array may have `most` bytes after decompression."""
        if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
            raise ValueError("it is no MATLAB file of version 5 to 7; MATLAB writes one with save -v7")
        self.order = "<" if content[126:128] == b"IM" else ">"
        self.content, self.most = memoryview(content)[128:], most

    def find(self, name: str) -> Array | None:
        """Return the variable of that name, or None."""
        for kind, data in self._elements(self.content):
            if kind == COMPRESSED:
                inflated = zlib.decompressobj().decompress(data, self.most + 1)
                if len(inflated) > self.most:
                    raise ValueError(f"decompressed it is more than {self.most:,} bytes")
                kind, data = self._next(self._elements(memoryview(inflated)))
            array = self._array(kind, data)
            if array.name == name:
                return array
        return None

    def field(self, array: Array, name: str) -> Array | None:
        """Return the field of a structure, or None. If the structure has several elements, it is that of the first."""
        if array.kind != STRUCT or math.prod(array.sides) < 1:
            return None
        length = int(self._numbers(self._next(array.rest))[0])
        names = bytes(self._next(array.rest)[1])
        if not 0 < length <= len(names):
            raise ValueError("it names the fields of a structure by no letters")
        for start in range(0, len(names), length):
            found = self._array(*self._next(array.rest))
            if names[start : start + length].partition(b"\0")[0] == name.encode():
                return found
        return None

    def values(self, array: Array) -> np.ndarray | None:
        """Return the numbers in their stored type, or None if the array holds none."""
        if not 6 <= array.kind <= 15:
            return None
        numbers = self._numbers(self._next(array.rest))
        if min(array.sides, default=0) < 0 or math.prod(array.sides) != len(numbers):
            raise ValueError(f"it has {len(numbers)} numbers, which do not fill the size {array.sides}")
        return numbers.reshape(array.sides, order="F")

    def _array(self, kind: int, data: memoryview) -> Array:
        if kind != MATRIX:
            raise ValueError(f"an element of kind {kind} stands where an array should")
        if not data:  # how an empty array in a structure may be written
            return Array(0, (0, 0), "", iter(()))
        elements = self._elements(data)
        flags = self._numbers(self._next(elements))
        sides = self._numbers(self._next(elements))
        name = bytes(self._next(elements)[1]).decode("latin-1")
        if flags.dtype.kind == "f" or sides.dtype.kind == "f" or not len(flags):
            raise ValueError("the head of an array is damaged")
        return Array(int(flags[0]) & 255, tuple(sides.tolist()), name, elements)

    def _elements(self, data: memoryview) -> Iterator[Element]:
        """Yield the elements of a stretch of the file.

        A tag of 8 bytes gives type and length. Up to 4 bytes of content may lie in the tag itself.
        """
        start = 0
        for _ in range(ENTRIES):
            if start + 8 > len(data):
                return
            kind, size = np.frombuffer(data[start : start + 8], f"{self.order}u4").tolist()
            begin, step = start + 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
            if kind >> 16:
                kind, size, begin, step = kind & 0xFFFF, kind >> 16, start + 4, 8
            if begin + size > len(data) or (step == 8 and size > 4):
                raise ValueError("it is cut off")
            yield kind, data[begin : begin + size]
            start += step

    def _numbers(self, element: Element) -> np.ndarray:
        kind, data = element
        if kind not in NUMBERS:
            raise ValueError(f"an element of kind {kind} stands where numbers should")
        dtype = np.dtype(self.order + NUMBERS[kind])
        if len(data) % dtype.itemsize:
            raise ValueError("it holds a part of a number")
        return np.frombuffer(data, dtype)

    @staticmethod
    def _next(elements: Iterator[Element]) -> Element:
        element = next(elements, None)
        if element is None:
            raise ValueError("it is cut off")
        return element
