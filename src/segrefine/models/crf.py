"""The fully connected CRF over a network's class scores, solved by mean field.

Two Gaussian kernels join every cell of the image with every other: one of positions and colors, one of positions alone
(Kraehenbuehl and Koltun, NIPS 2011). They are computed exactly, in blocks, where the releases approximate them.

Letters: B batch, K classes, C colors, H W image size, h w cells, N = h * w, M points at which a kernel is evaluated.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.core.options import CRFOptions, make_options
from segrefine.models.network import SegmentationModel

BLOCK = 2**22
"""Entries of a kernel computed at a time: 16 MiB of float32, which the caches of a server's processor hold."""

KEPT = 2**27
"""Entries up to which a kernel is kept for the next step: 512 MiB, such as of an image of 360x480 at stride 4. A larger
one is computed again, so that memory grows with the number of cells and not with its square."""

MOST_CELLS = 2**17
"""Cells of the largest image that is refined, 1024x2048 pixels at stride 4. Time grows with their square."""

Refinement = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K, H, W) and normalized images (B, C, H, W) -> refined logits (B, K, H, W)."""

Transform = Callable[[Tensor, Tensor], Tensor]
"""The outputs of the spatial and the bilateral kernel (B, K, h, w) -> what is added to the logits."""


def mean_field(logits: Tensor, colors: Tensor, options: CRFOptions, steps: int, transform: Transform) -> Tensor:
    """Refine logits by mean-field steps: all but the last over cells, the last at the pixels.

    The last step is the guided upsampling. A pixel gets its own logits, and messages from all cells by its own position
    and color. So edges follow the pixels, and at `stride` 1 this is the published algorithm with nothing left out.

    As in the release of CRF-RNN (torrvision/crfasrnn, multi_stage_meanfield.cpp), a kernel's weights for a point add up
    to 1, and a cell is a neighbor of itself. The weights of `CRFOptions` are made for that.

    Args:
        logits: (B, K, H, W), such as log probabilities.
        colors: (B, C, H, W) in 0..255.
        options: the kernels.
        steps: at least 1.
        transform: how the kernels' outputs become messages.

    Returns:
        (B, K, H, W) logits in float32, or float64 for float64.
    """
    kind = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        pixels = logits.to(kind).log_softmax(1)
        kernels = Kernels(colors.to(kind), options)
        cells = log(pool(pixels.exp(), options.stride))
        current = cells
        for _ in range(steps - 1):
            current = cells + transform(*kernels.between_cells(current.softmax(1)))
        return pixels + transform(*kernels.to_pixels(current.softmax(1)))


def log(probabilities: Tensor) -> Tensor:
    """Return logarithms that are finite, also of zero."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def pool(maps: Tensor, stride: int) -> Tensor:
    """Average (B, C, H, W) over cells of `stride` x `stride` pixels; the last ones may have fewer."""
    return F.avg_pool2d(maps, stride, ceil_mode=True, count_include_pad=False)


class Kernels:
    """The two kernels of an image, from its cells to its cells or to its pixels.

    A kernel whose weights add up to 1 is a softmax over the cells of minus half the squared distance.
    """

    def __init__(self, colors: Tensor, options: CRFOptions) -> None:
        self.size = colors.shape[-2:]
        # Rounding grows with the square of the features, so they are measured from their middle.
        colors = (colors - colors.mean((2, 3), keepdim=True)) / options.theta_beta
        axes = [torch.arange(side, dtype=colors.dtype, device=colors.device) - side / 2 for side in self.size]
        # The middle of each cell; the last one may have fewer pixels.
        cell_axes = [torch.stack([part.mean() for part in axis.split(options.stride)]) for axis in axes]
        cells = _features(pool(colors, options.stride), cell_axes, options.theta_alpha)
        self._between = _Bilateral(cells, cells)
        self._to_pixels = self._between
        if options.stride > 1:
            self._to_pixels = _Bilateral(_features(colors, axes, options.theta_alpha), cells)
        gamma = options.theta_gamma
        self._cell_rows, self._cell_columns = (_spatial(axis, axis, gamma) for axis in cell_axes)
        self._rows, self._columns = (_spatial(*pair, gamma) for pair in zip(axes, cell_axes, strict=True))

    def between_cells(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Filter (B, K, h, w) by the spatial and the bilateral kernel, (B, K, h, w) each."""
        spatial = self._cell_rows @ values @ self._cell_columns.T
        return spatial, self._between(values).unflatten(2, values.shape[2:])

    def to_pixels(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Filter (B, K, h, w) likewise, at every pixel: (B, K, H, W) each."""
        spatial = self._rows @ values @ self._columns.T
        return spatial, self._to_pixels(values).unflatten(2, self.size)


class _Bilateral:
    """Softmax over cells of minus half the squared distance of features: (B, M, D) of points, (B, N, D) of cells.

    It needs products in full float32, PyTorch's default, since the numbers in the exponent reach thousands.
    """

    def __init__(self, points: Tensor, cells: Tensor) -> None:
        # -|p - c|^2 / 2 is p c - |c|^2 / 2, and a term of the point alone, which a softmax over cells does not see.
        self.points = torch.cat([points, torch.ones_like(points[..., :1])], 2)
        self.cells = torch.cat([cells, -cells.square().sum(2, keepdim=True) / 2], 2).mT.contiguous()
        batch, count, _ = points.shape
        self.step = max(BLOCK // (batch * cells.shape[1]), 1)
        self.kept = None if batch * count * cells.shape[1] > KEPT else (self.points @ self.cells).softmax(2)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter (B, K, h, w), (B, K, M). For the backward pass no block of the kernel is stored either."""
        values = values.flatten(2).mT.contiguous()
        if self.kept is not None:
            return (self.kept @ values).mT
        return _BlockwiseAttention.apply(self.points, self.cells, values, self.step).mT


class _BlockwiseAttention(torch.autograd.Function):
    """softmax(points @ cells) @ values, (B, M, D) and (B, D, N) and (B, N, K) -> (B, M, K), `step` points at a time.

    Values alone have a gradient. Blocks are computed again for it, as none is stored.
    """

    @staticmethod
    def forward(context: Any, points: Tensor, cells: Tensor, values: Tensor, step: int) -> Tensor:
        context.save_for_backward(points, cells)
        context.step = step
        found = values.new_empty(len(values), points.shape[1], values.shape[2])
        for rows, weights, total in _blocks(points, cells, step):
            found[:, rows] = weights @ values / total
        return found

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, Tensor, None]:  # type: ignore[override]
        points, cells = context.saved_tensors
        found = gradient.new_zeros(len(gradient), cells.shape[2], gradient.shape[2])
        for rows, weights, total in _blocks(points, cells, context.step):
            found.baddbmm_(weights.mT, gradient[:, rows] / total)
        return None, None, found, None


def _blocks(points: Tensor, cells: Tensor, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows, their part of the kernel (B, rows, N) and what it adds up to, (B, rows, 1).

    The next block takes over the memory: new memory for each takes a CPU longer than to compute it.
    """
    buffer = points.new_empty(len(points), step, cells.shape[2])
    for top in range(0, points.shape[1], step):
        block = points[:, top : top + step]
        weights = buffer[:, : block.shape[1]]
        torch.bmm(block, cells, out=weights)
        weights -= weights.amax(2, keepdim=True)
        weights.exp_()
        yield slice(top, top + step), weights, weights.sum(2, keepdim=True)


def _features(colors: Tensor, axes: list[Tensor], theta: float) -> Tensor:
    """Colors (B, C, h, w) and positions over `theta`, (B, h * w, C + 2)."""
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) / theta
    return torch.cat([colors, places.expand(len(colors), -1, -1, -1)], 1).flatten(2).mT


def _spatial(points: Tensor, cells: Tensor, theta: float) -> Tensor:
    """Return the spatial kernel on one axis, (points, cells). The whole kernel is the product of both axes'."""
    return (-(points[:, None] - cells).square() / (2 * theta**2)).softmax(1)


def potts(options: CRFOptions, spatial: Tensor, bilateral: Tensor) -> Tensor:
    """Messages of the Potts model: a class is as likely as its neighbors say.

    What the other classes of the neighbors take from it differs from that by a constant, since they add up to 1.
    """
    return options.spatial_weight * spatial + options.bilateral_weight * bilateral


def refine(logits: Tensor, colors: Tensor, options: CRFOptions) -> Tensor:
    """Refine logits (B, K, H, W) of images with `colors` (B, C, H, W) in 0..255; UserError for too large an image."""
    height, width = logits.shape[2:]
    if height * width > MOST_CELLS * options.stride**2:
        least = math.ceil(math.sqrt(height * width / MOST_CELLS))
        raise UserError(
            f"post=crf joins every cell of an image with every other. At crf.stride={options.stride}, "
            f"{height} x {width} pixels are too many. Give crf.stride={least} or more."
        )
    return mean_field(logits, colors, options, options.steps, partial(potts, options))


def create_refinement(net: SegmentationModel, post: str | None, crf: Mapping[str, Any]) -> Refinement | None:
    """Return what scores go through by the options `post` and `crf`; UserError for options `crf` without `post=crf`."""
    options = make_options(CRFOptions, crf, "crf", "crf.")
    if post == "crf":
        return lambda logits, images: refine(logits, net.colors(images), options)
    changed = [f"crf.{name}={value}" for name, value in vars(options).items() if value != vars(CRFOptions())[name]]
    if changed:
        raise UserError(f"{changed[0]} has no effect without post=crf.")
    return None


class CRFLayer(nn.Module):
    """CRF-RNN (Zheng et al., ICCV 2015): mean field as the last layer of a network, with trained weights.

    A kernel's output goes through a K x K matrix of its own, and their sum through the class compatibility. These start
    as the Potts model with the weights of `CRFOptions` (crfasrnn, multi_stage_meanfield.cpp, LayerSetUp).

    Unlike the release, where all steps are at the pixels, all but the last are at `CRFOptions.stride`.
    """

    TRAINING_STEPS = 5
    """In training, where the gradients of more steps would vanish; otherwise `CRFOptions.steps` (paper, "Implementation
    Details")."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.options = CRFOptions()
        one = torch.eye(num_classes)
        self.spatial_weights = nn.Parameter(self.options.spatial_weight * one)
        self.bilateral_weights = nn.Parameter(self.options.bilateral_weight * one)
        self.compatibility = nn.Parameter(-one)

    @torch.compiler.disable
    def forward(self, logits: Tensor, colors: Tensor) -> Tensor:
        """(B, K, H, W) and colors (B, C, H, W) in 0..255 -> (B, K, H, W) float32."""
        steps = self.TRAINING_STEPS if self.training else self.options.steps
        return mean_field(logits, colors, self.options, steps, self._messages)

    def _messages(self, spatial: Tensor, bilateral: Tensor) -> Tensor:
        return -_mix(self.compatibility, _mix(self.spatial_weights, spatial) + _mix(self.bilateral_weights, bilateral))


def _mix(matrix: Tensor, maps: Tensor) -> Tensor:
    """Apply (K, K) to the classes of (B, K, h, w)."""
    return torch.einsum("kc,bchw->bkhw", matrix.to(maps.dtype), maps)
