"""Bilinear upsampling that lands scores on the pixels they were computed from, fixed or learned.

Cell j of a map at stride s looks at position `s * j + center` of the finer grid (see `segrefine.models.encoders`).
Both forms here honor it for every size, hold the outermost cell's value constant beyond its center, and so agree to
rounding.
The usual `interpolate(size=...)` does not: over a ResNet it shifts stride-32 scores by 15.5 pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.core.errors import UserError


class RowwiseUpsampling:
    """Upsampling in which cell j lands on pixel stride * j + center and reaches less than a stride to either side."""

    stride: Any  # a number, or a pair of the same
    center: float

    def positions(self, cells: int, side: int) -> Tensor:
        """Return where each cell of an axis looks, on a finer grid of `side` pixels or beside it: (cells,) float64."""
        return self._step() * torch.arange(cells, dtype=torch.float64) + self.center

    def rows(self, scores: Tensor, width: int, top: int, bottom: int) -> Tensor:
        """Return rows `top` to `bottom` of the whole at `width`, from only the cells that they come from.

        (B, K, h, w) -> (B, K, bottom - top, width).
        """
        stride = self._step()
        first = max(math.floor((top - max(self.center, 0)) / stride), 0)  # row 0 stays that of the cells taken
        first = min(first, scores.shape[2] - 1)  # rows beyond the last center are held at the last cell
        last = max(math.ceil((bottom - 1 - self.center) / stride), 0)
        size = (bottom - stride * first, width)
        return self(scores[:, :, first : last + 1], size)[:, :, top - stride * first :]  # type: ignore[operator]

    def _step(self) -> int:
        return self.stride if isinstance(self.stride, int) else self.stride[0]


class Interpolate(RowwiseUpsampling, nn.Module):
    """Bilinear interpolation by a whole stride.

    `center` is 0 where the encoder has odd kernels and (stride - 1) / 2 where it has even ones: PyTorch interpolates
    so. Any other `center` above -stride and below stride takes a fixed kernel, as `TransposedConvolution` has it.
    """

    def __init__(self, stride: int, center: float) -> None:
        super().__init__()
        self.stride, self.center = stride, center
        self.usual = center in (0.0, (stride - 1) / 2)

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) -> (B, K, *size), at most stride * h + 1 at center 0, otherwise stride * (h + 1)."""
        if not self.usual:
            classes, geometry = scores.shape[1], (self.stride, self.center)
            kernel = bilinear_kernel(_taps(*geometry), _peak(*geometry), like=scores).expand(classes, 1, -1, -1)
            scores = F.conv_transpose2d(extend(scores, 1, 2), kernel, stride=self.stride, groups=classes)
            return crop(scores, _offset(*geometry), size)
        scores = extend(scores, 0, 1)  # a map rounded down ends before the last pixels
        # With align_corners cell j lands on stride * j when the size is stride * (h - 1) + 1.
        last = 1 if self.center == 0 else 0
        height, width = (self.stride * (cells - last) + last for cells in scores.shape[-2:])
        scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=bool(last))
        return _first(scores, size)


class Resize(nn.Module):
    """Bilinear resizing as if the map covered the image evenly, as torchvision's networks end.

    It is off by up to half a stride.
    """

    def positions(self, cells: int, side: int) -> Tensor:
        """Return what `RowwiseUpsampling.positions` does: the middle of each cell's even share of the `side` pixels."""
        return (torch.arange(cells, dtype=torch.float64) + 0.5) * side / cells - 0.5

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) -> (B, K, *size)."""
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)


class Corners(nn.Module):
    """Bilinear upsampling by a whole stride that puts the corner cells on the corner pixels.

    The networks of segmentation_models_pytorch end so (base/heads.py). It is off by up to stride - 1 pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def positions(self, cells: int, side: int) -> Tensor:
        """As `RowwiseUpsampling.positions`: evenly from the first pixel to the last of stride * cells."""
        return torch.linspace(0, self.stride * cells - 1, cells, dtype=torch.float64)

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) -> (B, K, *size), size at most stride * h by stride * w: of images that were padded to this."""
        whole = self.stride * scores.shape[2], self.stride * scores.shape[3]
        return _first(F.interpolate(scores, whole, mode="bilinear", align_corners=True), size)


class Pixels(RowwiseUpsampling, nn.Module):
    """No upsampling, for scores that are already on the pixels."""

    stride, center = 1, 0.0

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, *size), or rows of it, as they are; of scores for padded images (B, K, h, w) the image's own."""
        return _first(scores, size)


class TransposedConvolution(RowwiseUpsampling, nn.ConvTranspose2d):
    """FCN's in-network upsampling: a transposed convolution that starts as bilinear interpolation.

    CVPR 2015, section 3.3. Kernel, K classes in and out, no bias; class c starts connected to class c alone. The kernel
    has 2 * stride taps where cells lie between pixels (VGG; Caffe's bilinear filler) and 2 * stride - 1 where they lie
    on them (ResNet).
    """

    def __init__(self, num_classes: int, stride: int, center: float, learned: bool = True) -> None:
        self.peak = _peak(stride, center)  # which `reset_parameters` asks for
        super().__init__(num_classes, num_classes, _taps(stride, center), stride=stride, bias=False)
        self.center, self.offset = center, _offset(stride, center)
        self.weight.requires_grad_(learned)

    def reset_parameters(self) -> None:
        """Connect class c of the input to class c of the output alone, through a bilinear kernel."""
        with torch.no_grad():
            self.weight.zero_()
            diagonal = torch.arange(self.in_channels)
            self.weight[diagonal, diagonal] = bilinear_kernel(self.kernel_size[0], self.peak)

    def whole(self, scores: Tensor) -> Tensor:
        """(B, K, h, w) -> all that kernels reach, in the scores' dtype: float32 at a half-precision network's end."""
        return F.conv_transpose2d(scores, self.weight.to(scores.dtype), stride=self.stride)

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """(B, K, h, w) -> (B, K, *size) on the finer grid."""
        return crop(self.whole(extend(scores, 1, 2)), self.offset, size)


def extend(scores: Tensor, before: int, after: int) -> Tensor:
    """(B, K, h, w) with the outermost cells repeated on both axes, so many times before and after."""
    # Not by F.pad: with channels last its gradient comes in another order in memory than torch.compile foresees, which
    # then refuses it.
    for dim in (2, 3):
        first, last = scores.narrow(dim, 0, 1), scores.narrow(dim, scores.shape[dim] - 1, 1)
        scores = torch.cat([first] * before + [scores] + [last] * after, dim)
    return scores


def _taps(stride: int, center: float) -> int:
    """Return the taps of the kernel that reaches less than a stride to either side of its cell."""
    return 2 * stride - (1 if center == int(center) else 0)


def _peak(stride: int, center: float) -> float:
    """Return the position of that kernel's peak among its taps: between two where cells lie between two pixels."""
    return stride - 1 + center % 1


def _offset(stride: int, center: float) -> int:
    """Return where pixel 0 falls after a transposed convolution with that kernel over one cell of padding."""
    return round(stride + _peak(stride, center) - center)


def bilinear_kernel(kernel: int, peak: float | None = None, like: Tensor | None = None) -> Tensor:
    """Return (kernel, kernel) weights (1 - |i - peak| / factor)(1 - |j - peak| / factor), float32 or as `like`.

    With the peak in the middle they are those of Caffe's BilinearFiller (include/caffe/filler.hpp).
    """
    factor = (kernel + 1) // 2
    steps = torch.arange(kernel) if like is None else torch.arange(kernel, dtype=like.dtype, device=like.device)
    taps = 1 - (steps - ((kernel - 1) / 2 if peak is None else peak)).abs() / factor
    return taps[:, None] * taps[None, :]


class CaffeUpsampling(TransposedConvolution):
    """FCN's upsampling as released: a transposed convolution with 2 * stride taps and no padding, then a crop.

    `offset` is where the finer grid's cell 0 lies in what comes out. It is negative where the output begins within the
    finer grid, which then has to be cropped by as much (Caffe's coord_map.py derives the same numbers).
    """

    def __init__(self, num_classes: int, stride: int, center: float, learned: bool = True) -> None:
        super().__init__(num_classes, stride, 0.5, learned)  # 2 * stride taps, with the peak in the middle
        self.center, self.offset = center, int(stride - 0.5 - center)

    def forward(self, scores: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """(B, K, h, w) -> (B, K, *size), from cell 0 of the finer grid on."""
        return crop(self.whole(scores), self.offset, size)


def crop(maps: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), from `offset` on, on both axes."""
    return maps[..., offset : offset + size[0], offset : offset + size[1]]


def _first(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), of maps that may be no larger than this.

    An exported program picks rows and columns by number: a slice would hold for sizes alone that cut something off.
    """
    if not torch.compiler.is_exporting():
        return maps[..., : size[0], : size[1]]
    for dim, side in ((2, size[0]), (3, size[1])):
        maps = maps.index_select(dim, torch.arange(side, device=maps.device))
    return maps


def create_upsampling(kind: str, num_classes: int, stride: int, center: float, caffe: bool = False) -> nn.Module:
    """Create a `learned` or `fixed` transposed convolution, or `interpolate`. The last two compute the same.

    With `caffe` it is upsampling as released, which has no interpolation.
    """
    if kind == "interpolate":
        if caffe:
            raise UserError("model.upsample=interpolate needs model.geometry=same. The release does not interpolate.")
        return Interpolate(stride, center)
    layer = CaffeUpsampling if caffe else TransposedConvolution
    return layer(num_classes, stride, center, learned=kind == "learned")
