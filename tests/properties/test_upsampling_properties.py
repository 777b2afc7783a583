"""Upsampling, whole and by rows, against closed forms in float64 for any stride and size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import laid_out, layouts, seeds, sizes
from torch import Tensor

from segrefine.models.upsampling import CaffeUpsampling, Interpolate, Resize, RowwiseUpsampling, TransposedConvolution

pytestmark = pytest.mark.usefixtures("one_thread")

strides = st.integers(1, 33)
maps = sizes(1, 6)


def interpolation(positions: np.ndarray, cells: int) -> np.ndarray:
    """(positions, cells) weights of linear interpolation at positions counted in cells, the outermost held."""
    matrix = np.zeros((len(positions), cells))
    for row, position in enumerate(positions.clip(0, cells - 1)):
        low = int(position)
        matrix[row, low] += 1 - (position - low)
        matrix[row, min(low + 1, cells - 1)] += position - low
    return matrix


def along_both(scores: Tensor, matrices: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(matrices[0] @ scores.numpy() @ matrices[1].T)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@given(
    seed=seeds,
    shape=maps,
    stride=strides,
    place=st.just(0.0) | st.just(0.5) | st.integers(-3, 7).map(lambda eighths: eighths / 8),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    layout=layouts,
)
def test_pixels_read_the_cells_about_them(
    seed: int, shape: tuple[int, int], stride: int, place: float, shares: tuple[float, float], layout: str
) -> None:
    """Pixel p reads position (p - center) / stride, for every size up to the greatest that is promised."""
    center = (stride - 1) * place
    greatest = [stride * (cells + 1) if place == 0.5 else stride * cells + 1 for cells in shape]
    size = tuple(max(1, round(share * most)) for share, most in zip(shares, greatest, strict=True))
    scores = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 2, *shape)))
    expected = along_both(
        scores,
        [interpolation((np.arange(side) - center) / stride, cells) for side, cells in zip(size, shape, strict=True)],
    )
    close(Interpolate(stride, center)(laid_out(scores, layout), size), expected)
    fixed = TransposedConvolution(2, stride, center, learned=False).double()  # its kernel was rounded to float32
    close(fixed(laid_out(scores, layout), size), expected, tolerance=1e-5)


@given(seed=seeds, shape=maps, size=sizes(1, 90))
def test_resizing_reads_evenly(seed: int, shape: tuple[int, int], size: tuple[int, int]) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 2, *shape)))
    positions = [(np.arange(side) + 0.5) * cells / side - 0.5 for side, cells in zip(size, shape, strict=True)]
    expected = along_both(scores, [interpolation(*pair) for pair in zip(positions, shape, strict=True)])
    close(Resize()(scores, size), expected)


def spread(scores: np.ndarray, weights: np.ndarray, stride: int) -> np.ndarray:
    """A transposed convolution: every cell adds its kernel, (in, out, k, k), to what is about it."""
    batch, _, height, width = scores.shape
    taps = weights.shape[-1]
    out = np.zeros((batch, weights.shape[1], stride * (height - 1) + taps, stride * (width - 1) + taps))
    for y, x in np.ndindex(height, width):
        kernels = np.einsum("bi,iokl->bokl", scores[:, :, y, x], weights)
        out[:, :, stride * y : stride * y + taps, stride * x : stride * x + taps] += kernels
    return out


@given(seed=seeds, shape=maps, stride=st.integers(1, 16), between=st.booleans(), classes=st.integers(1, 3))
def test_learned_kernels_are_spread_about_their_cells(
    seed: int, shape: tuple[int, int], stride: int, between: bool, classes: int
) -> None:
    """Ours repeats the outermost cells, one before and two after; the release takes the map as it is."""
    rng = np.random.default_rng(seed)
    center = (stride - 1) / 2 if between else 0.0
    scores = rng.standard_normal((2, classes, *shape))
    ours = TransposedConvolution(classes, stride, center).double()
    theirs = CaffeUpsampling(classes, stride, -rng.integers(1, 9) - 0.5).double()
    for layer in (ours, theirs):
        layer.weight.data = torch.from_numpy(rng.standard_normal(layer.weight.shape))
    held = np.pad(scores, [(0, 0), (0, 0), (1, 2), (1, 2)], mode="edge")
    whole = spread(held, ours.weight.detach().numpy(), stride)
    middle = (ours.kernel_size[0] - 1) // 2  # the tap, or the first of two, in which a kernel is widest
    first = stride + middle - int(center)  # a cell was added before
    size = stride * shape[0], stride * shape[1]
    close(ours(torch.from_numpy(scores), size), torch.from_numpy(whole[..., first:, first:][..., : size[0], : size[1]]))
    close(
        theirs.whole(torch.from_numpy(scores)), torch.from_numpy(spread(scores, theirs.weight.detach().numpy(), stride))
    )
    offset = stride - 1 - int(theirs.center - 0.5)
    assert theirs.offset == offset


@given(
    seed=seeds,
    kind=st.sampled_from(["interpolate", "ours", "caffe"]),
    stride=strides,
    between=st.booleans(),
    image=sizes(1, 100),
    rounded=st.sampled_from(["up", "down"]),
    band=st.integers(1, 4) | st.integers(1, 40),
)
def test_rows_are_those_of_the_whole(
    seed: int, kind: str, stride: int, between: bool, image: tuple[int, int], rounded: str, band: int
) -> None:
    torch.manual_seed(seed)
    center: Any = (stride - 1) / 2 if between else 0.0
    if not center:
        rounded = "up"  # a map rounded down would end too early
    if kind == "caffe":
        center = -(seed % 200) - (stride % 2) / 2 - 0.5
    layer: RowwiseUpsampling = {
        "interpolate": lambda: Interpolate(stride, center),
        "ours": lambda: TransposedConvolution(2, stride, center).double(),
        "caffe": lambda: CaffeUpsampling(2, stride, center).double(),
    }[kind]()
    if kind != "interpolate":
        torch.nn.init.normal_(layer.weight)
    need = [side + (layer.offset if kind == "caffe" else 0) for side in image]
    shape = [max(1, side // stride if rounded == "down" and kind != "caffe" else -(-side // stride)) for side in need]
    scores = torch.randn(1, 2, *shape, dtype=torch.float64)
    whole = layer(scores, image)
    assert whole.shape[-2:] == image
    bands = [layer.rows(scores, image[1], top, min(top + band, image[0])) for top in range(0, image[0], band)]
    close(torch.cat(bands, dim=2), whole)
