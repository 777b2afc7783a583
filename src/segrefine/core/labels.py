"""Label conventions that data, loss, metrics and pictures share: the void value, class names and colors."""

import numpy as np

VOID = 255
"""Label of pixels that never count: unlabeled, ignored by a data set, or padding. Label maps are uint8 with classes
0..K-1.
"""


def voc_color_map(count: int = 256) -> np.ndarray:
    """Return PASCAL VOC's palette, (count, 3) uint8 RGB.

    Bits 0, 3, 6, ... of the index go to red, bits 1, 4, 7, ... to green and bits 2, 5, 8, ... to blue, from the high
    bit down (VOC development kit, VOCcode/VOClabelcolormap.m).
    """
    bits = np.unpackbits(np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 4), axis=1, bitorder="little")
    return np.concatenate([np.packbits(bits[:, channel:24:3], axis=1) for channel in range(3)], axis=1)


def names(text: str) -> list[str]:
    """Split a text at its commas into names. A name may continue on the next line."""
    return [" ".join(name.split()) for name in text.split(",")]
