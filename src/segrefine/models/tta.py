"""Prediction at test time: several scales, mirrored images, sliding windows. B batch, K classes, H W size."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.models.crf import Refinement, log
from segrefine.models.encoders.base import MIN_SIDE
from segrefine.models.logits import Logits, best_classes

TILE_STEP = 2 / 3
"""Step between sliding windows as a fraction of their size, so that neighbors overlap by a third (`stride_rate` in the
evaluation code of PSPNet, Zhao et al., CVPR 2017)."""

BAND_ROWS = 256
"""Rows of resized logits whose probabilities are computed at a time."""


class TestTimeAugmentation:
    """Wraps `net`, (B, C, H, W) float -> logits (B, K, H, W), and averages what it says over views of the images.

    - `scales`: sizes relative to the image. RefineNet's multi-scale evaluation (Lin et al., CVPR 2017, section 4)
      averages over 0.4, 0.6, 0.8, 1.0, 1.2 in the release. Where a side would be shorter than `MIN_SIDE`, it gets that.
    - `flip`: each scale also mirrored left to right.
    - `window`: size, or (height, width), of the tiles in which each scaled image is processed; where they overlap,
      logits are averaged. A side that is not longer than the window's is taken whole.
    - `refine`: what the averaged scores go through at the end, as logits (B, K, H, W) with the images, such as a CRF.

    Raises UserError for options that make no sense.
    """

    __test__ = False  # pytest takes a class of this name for tests

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | tuple[int, int] | None = None,
        refine: Refinement | None = None,
    ) -> None:
        if not isinstance(scales, Sequence) or not scales or not all(map(_is_scale, scales)):
            raise UserError(f"tta.scales={scales} must be one or more positive, finite numbers.")
        sides = (window, window) if isinstance(window, int) else window
        if sides is not None and not (
            isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(s, int) and s >= MIN_SIDE for s in sides)
        ):
            raise UserError(
                f"window={window} must be a size or [height, width] of at least {MIN_SIDE} pixels, or null."
            )
        self.window = None if sides is None else (sides[0], sides[1])
        self.net, self.scales, self.flip, self.refine = net, tuple(scales), flip, refine

    @property
    def plain(self) -> bool:
        """Whether images are taken as they are, once."""
        return self.scales == (1.0,) and not self.flip and self.window is None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return class scores (B, K, H, W) of normalized `images` (B, C, H, W).

        They are probabilities in fp32, or the network's logits for the image as it is (one scale of 1, not mirrored, no
        window), or what `refine` makes of them. The best class is the same for both.

        Raises:
            UserError: an image has a side below `MIN_SIDE`.
        """
        scores = self._average(images)
        if self.refine is None:
            return scores
        return self.refine(scores if self.plain else log(scores), images)

    def _average(self, images: Tensor) -> Tensor:
        """As `__call__`, without `refine`."""
        size = images.shape[-2:]
        if min(size) < MIN_SIDE:
            raise UserError(f"Images must be at least {MIN_SIDE} pixels high and wide, got {size[0]} x {size[1]}.")
        if self.plain:
            return self.net(images)

        total: Tensor | None = None
        for scale in self.scales:
            view = _resize(images, _scaled(size, scale))
            for mirrored in (False, True) if self.flip else (False,):
                # Probabilities are averaged, as all views share their scale.
                probabilities = (logits.softmax(dim=1) for logits in self._view(view, mirrored, size))
                total = _add(probabilities, size, total)
        assert total is not None  # there is at least one scale
        return total.div_(len(self.scales) * (1 + self.flip))

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """Find the best class of every pixel, (B, H, W) uint8; from one view, no more than a band of logits exists."""
        bands, _ = self._scored(images)
        return torch.cat([best_classes(band) for band in bands], 1)

    @torch.no_grad()
    def classes_and_confidences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find `classes` and the probability of each, (B, H, W) float32, from the same bands."""
        bands, logits = self._scored(images)
        found = [(best_classes(band), (band.float().softmax(1) if logits else band).amax(1)) for band in bands]
        classes, confidences = zip(*found, strict=True)
        return torch.cat(classes, 1), torch.cat(confidences, 1)

    def _scored(self, images: Tensor) -> tuple[Iterable[Tensor], bool]:
        """Return the scores of `__call__` in bands from the top down, and whether they are logits."""
        if self.refine is not None:
            return self(images).split(BAND_ROWS, 2), True
        if self.flip or self.scales != (1.0,):
            return self(images).split(BAND_ROWS, 2), False
        return self._bands(images), True

    def _view(self, images: Tensor, mirrored: bool, size: Sequence[int]) -> Iterator[Tensor]:
        """Yield the logits of `images`, or of their mirror images, resized to `size`, in bands from the top down."""
        bands = (band.flip(-1) for band in self._bands(images.flip(-1))) if mirrored else self._bands(images)
        if images.shape[-2:] == tuple(size):
            yield from bands
        else:
            # Logits are resized, as inside the network.
            yield from _resize(_add(bands, images.shape[-2:]), size).split(BAND_ROWS, 2)

    def _bands(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logits of `images` in fp32, in bands of rows from the top down.

        They are the network's or, with windows, the mean over the windows that cover a pixel.
        """
        height, width = images.shape[-2:]
        if self.window is None or (height <= self.window[0] and width <= self.window[1]):
            yield from (band.float() for band in Logits(self.net, images))
            return
        (tops, rows), (lefts, columns) = (_tiles(*pair) for pair in zip((height, width), self.window, strict=True))
        total: Tensor | None = None  # of the rows that the windows at `top` cover
        coverage = torch.zeros(rows, width, device=images.device)
        for top, end in zip(tops, [*tops[1:], height], strict=True):
            for left in lefts:
                logits = self.net(images[..., top : top + rows, left : left + columns]).float()
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], rows, width)
                total[..., left : left + columns] += logits
                coverage[:, left : left + columns] += 1
            assert total is not None  # _tiles gives at least one place
            done = end - top  # rows that no further window reaches
            yield total[:, :, :done] / coverage[:done]
            total, coverage = (F.pad(kept[..., done:, :], (0, 0, 0, done)) for kept in (total, coverage))


def _add(bands: Iterable[Tensor], size: Sequence[int], total: Tensor | None = None) -> Tensor:
    """Add bands (B, K, rows, W), from the top down, to a total (B, K, *size), or to zeros."""
    top = 0
    for band in bands:
        if total is None:
            total = band.new_zeros(*band.shape[:2], *size)
        total[:, :, top : top + band.shape[2]] += band
        top += band.shape[2]
    assert total is not None  # there is at least one band
    return total


def _is_scale(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _scaled(size: Sequence[int], scale: float) -> tuple[int, int]:
    """`size` times `scale`, the shape kept and neither side below `MIN_SIDE`."""
    scale = max(scale, MIN_SIDE / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with half-pixel centers, smoothed before it shrinks; the same tensor if the size does not change."""
    if images.shape[-2:] == tuple(size):
        return images
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)


def _tiles(length: int, window: int) -> tuple[list[int], int]:
    """Return where tiles start along a side of `length`, and how long they are. The last one ends with the side."""
    window = min(window, length)
    step = int(window * TILE_STEP)
    return [*range(0, length - window, step), length - window], window
