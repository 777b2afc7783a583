"""Both forms of bilinear upsampling against each other, coordinates, `F.interpolate` and Caffe's kernel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segrefine.models.upsampling import (
    CaffeUpsampling,
    Interpolate,
    TransposedConvolution,
    bilinear_kernel,
    create_upsampling,
)

STRIDES = (2, 4, 8, 16, 32)
GEOMETRIES = [(stride, center) for stride in STRIDES for center in (0.0, (stride - 1) / 2)]
OTHERS = [(2, 0.25), (2, 1.0), (4, 3.0), (8, 1.0), (8, 2.25), (32, 8.75), (4, -0.5)]
"""Of encoders that others made."""


def cells(size: tuple[int, int], stride: int, center: float) -> tuple[int, int]:
    """The map of an image: rounded up by odd kernels with padding (center 0), down by 2x2 pools."""
    between = center and center == (stride - 1) / 2
    height, width = (side // stride if between else -(-side // stride) for side in size)
    return height, width


def coordinates(stride: int, center: float, count: int, axis: int) -> Tensor:
    """A (1, 1, count, 3) or (1, 1, 3, count) map that holds, along `axis`, the pixel at each cell's center."""
    values = (stride * torch.arange(count, dtype=torch.float64) + center).view(-1, 1)
    pixels = values.expand(count, 3)
    return (pixels if axis == 0 else pixels.T)[None, None]


def both(stride: int, center: float, classes: int = 1) -> tuple[Interpolate, TransposedConvolution]:
    return Interpolate(stride, center), TransposedConvolution(classes, stride, center, learned=False).double()


@pytest.mark.parametrize(("stride", "center"), [*GEOMETRIES, *OTHERS])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (63, 97), (95, 64)])
def test_fixed_convolution_and_interpolation_agree_on_every_pixel(
    stride: int, center: float, size: tuple[int, int]
) -> None:
    scores = torch.randn(2, 3, *cells(size, stride, center), dtype=torch.float64)
    interpolated, convolved = (module(scores, size) for module in both(stride, center, classes=3))
    assert interpolated.shape == (2, 3, *size)
    torch.testing.assert_close(interpolated, convolved, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("stride", "center"), [*GEOMETRIES, *OTHERS])
@pytest.mark.parametrize("axis", [0, 1])
def test_pixel_coordinates_come_back_and_are_held_beyond_the_outermost_centers(
    stride: int, center: float, axis: int
) -> None:
    length = 5 * stride + stride // 2 + 1
    size = (length, 3) if axis == 0 else (3, length)
    count = cells((length, length), stride, center)[0]
    expected = torch.arange(length).double().clamp(center, stride * (count - 1) + center)
    for module in both(stride, center):
        pixels = module(coordinates(stride, center, count, axis), size)[0, 0]
        line = pixels[:, 1] if axis == 0 else pixels[1]
        torch.testing.assert_close(line, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("stride", STRIDES)
def test_between_pools_it_is_the_usual_interpolation_where_the_size_is_a_multiple(stride: int) -> None:
    scores = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    size = (3 * stride, 5 * stride)
    usual = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    for module in both(stride, (stride - 1) / 2, classes=2):
        torch.testing.assert_close(module(scores, size), usual, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride", STRIDES)
def test_on_pixels_it_is_the_corner_aligned_interpolation_up_to_the_last_center(stride: int) -> None:
    scores = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    size = (2 * stride + 1, 4 * stride + 1)
    usual = F.interpolate(scores, size, mode="bilinear", align_corners=True)
    for module in both(stride, 0.0, classes=2):
        torch.testing.assert_close(module(scores, size), usual, atol=1e-12, rtol=0)


@pytest.mark.parametrize("factor", [1, 2, 4, 5, 8, 16, 32])
def test_kernel_is_caffes_bilinear_filler(factor: int) -> None:
    """caffe.proto asks for kernels of 2f - f % 2; include/caffe/filler.hpp fills them with these weights."""
    kernel = 2 * factor - factor % 2
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    taps = [1 - abs(x / factor - center) for x in range(kernel)]
    expected = torch.tensor([[y * x for x in taps] for y in taps])
    torch.testing.assert_close(bilinear_kernel(kernel), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stride", [1, *STRIDES])
def test_kernel_is_a_box_convolved_with_itself(stride: int) -> None:
    box = np.ones(stride)
    odd = np.convolve(box, box) / stride
    for taps in (odd, np.convolve(odd, [0.5, 0.5])):
        torch.testing.assert_close(bilinear_kernel(len(taps)), torch.from_numpy(np.outer(taps, taps)).float())


@pytest.mark.parametrize(("stride", "center"), GEOMETRIES)
def test_every_class_starts_connected_to_itself_alone(stride: int, center: float) -> None:
    module = TransposedConvolution(3, stride, center)
    kernel = 2 * stride if center else 2 * stride - 1
    assert module.weight.shape == (3, 3, kernel, kernel)
    assert module.bias is None
    assert torch.equal(module.weight, torch.eye(3)[:, :, None, None] * bilinear_kernel(kernel))


def test_one_cell_is_spread_over_the_whole_image() -> None:
    cell, image = (torch.full((1, 1, side, side), 2.5, dtype=torch.float64) for side in (1, 32))
    for module in (*both(32, 0.0), *both(32, 15.5)):
        assert torch.equal(module(cell, (32, 32)), image)


def test_gradient_of_a_constant_reaches_cells_as_often_as_they_are_used() -> None:
    for module in both(8, 3.5):
        scores = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
        module(scores, (35, 39)).sum().backward()
        assert scores.grad is not None
        assert scores.grad.sum().item() == pytest.approx(35 * 39)
        assert scores.grad[0, 0, 1, 1].item() == pytest.approx(64)


@pytest.mark.parametrize(
    ("kind", "parameters", "trained"), [("learned", 1, True), ("fixed", 1, False), ("interpolate", 0, False)]
)
def test_kinds_differ_in_what_is_trained(kind: str, parameters: int, trained: bool) -> None:
    module = create_upsampling(kind, 4, 2, 0.5)
    assert len(list(module.parameters())) == parameters
    assert any(parameter.requires_grad for parameter in module.parameters()) == trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["learned", "fixed", "interpolate"])
def test_runs_in_half_precision_and_over_scores_of_a_higher_one(kind: str, dtype: torch.dtype) -> None:
    module = create_upsampling(kind, 2, 4, 1.5).to(dtype)
    scores = torch.randn(1, 2, 4, 5)
    expected = Interpolate(4, 1.5)(scores, (17, 21))
    torch.testing.assert_close(module(scores, (17, 21)), expected, atol=0.02, rtol=0)
    assert module(scores.to(dtype), (17, 21)).dtype == dtype


LAYERS = {
    "interpolate": lambda stride, center: Interpolate(stride, center),
    "transposed": lambda stride, center: TransposedConvolution(2, stride, center).double(),
    "caffe": lambda stride, _: CaffeUpsampling(2, stride, -(stride // 2 + 3) - 0.5).double(),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("stride", "center"), [*GEOMETRIES, *OTHERS])
def test_rows_are_those_of_the_whole(kind: str, stride: int, center: float) -> None:
    """Also where a learned kernel is no longer bilinear."""
    layer = LAYERS[kind](stride, center)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    size = (4 * stride + 1, 3 * stride + 1)
    counts = [
        -(-(side + getattr(layer, "offset", 0)) // stride) if kind == "caffe" else -(-side // stride) for side in size
    ]
    scores = torch.randn(2, 2, *counts, dtype=torch.float64)
    whole = layer(scores, size)
    assert whole.shape[-2:] == size
    for height in (1, 3, stride, size[0]):
        bands = [layer.rows(scores, size[1], top, min(top + height, size[0])) for top in range(0, size[0], height)]
        torch.testing.assert_close(torch.cat(bands, dim=2), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["interpolate", "transposed"])
def test_rows_beyond_the_last_center_are_those_of_the_whole(kind: str) -> None:
    """A VGG's map of 63 rows ends with cell 6, which looks at row 51.5; the last rows lie more than a stride beyond."""
    layer, scores = LAYERS[kind](8, 3.5), torch.randn(1, 2, 7, 7, dtype=torch.float64)
    whole = layer(scores, (63, 63))
    for top in range(56, 63):
        torch.testing.assert_close(layer.rows(scores, 63, top, 63), whole[:, :, top:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("layer", [Interpolate(4, 0.0), Interpolate(4, 3.0), TransposedConvolution(3, 4, 1.5)])
def test_gradients_are_laid_out_as_torch_compile_foresees(layer: Interpolate | TransposedConvolution) -> None:
    """Channels last, as a network's scores come: inductor checks the order of every gradient against a dry run."""

    def order() -> tuple[int, ...]:
        scores = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(scores, (18, 22)).sum(), scores)
        return gradient.stride()

    real = order()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert order() == real
