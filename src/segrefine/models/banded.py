"""Logits a band of rows at a time, where those of all pixels would need more memory than the network itself."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from segrefine.models.network import SegmentationModel

BAND = 2**22
"""Logits of a band: 16 MiB of float32, which the caches of a server's processor hold."""

LogitRows = Callable[[int, int], Tensor]
"""`rows(top, bottom)` gives the logits (B, K, bottom - top, W) of those rows."""


def spans(height: int, numbers: int, band: int | None = None) -> Iterator[tuple[int, int]]:
    """The first row and the row after the last of every band of a map of `height` rows with as many `numbers` each: of
    `band` numbers, BAND unless given, or of one row."""
    rows = max((band or BAND) // numbers, 1)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def logit_rows(net: "SegmentationModel", images: Tensor) -> LogitRows | None:
    """What gives the logits of `net` for `images` (B, 3, H, W) by rows; None where that is not worth it, since those of
    all pixels are one band, or cannot be had, since the upsampling has no rows."""
    batch, _, height, width = images.shape
    if net.num_classes * batch * height * width <= BAND or not net.has_rows:
        return None
    return partial(net.rows, net(images, upsampled=False), width)


@torch.no_grad()
def best_classes(net: "SegmentationModel", images: Tensor) -> Tensor:
    """The class with the highest logit for every pixel, (B, H, W) uint8, of normalised images (B, 3, H, W)."""
    rows = logit_rows(net, images)
    if rows is None:
        return net(images).argmax(1).to(torch.uint8)
    batch, _, height, width = images.shape
    parts = [rows(*span).argmax(1).to(torch.uint8) for span in spans(height, net.num_classes * batch * width)]
    return torch.cat(parts, 1)
