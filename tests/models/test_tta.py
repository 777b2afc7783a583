"""Test-time views with networks so simple that the exact answer is known."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.models.tta import TestTimeAugmentation, _tiles


def images(height: int = 45, width: int = 61, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def pointwise(batch: Tensor) -> Tensor:
    """A 1x1 convolution to 4 classes: sees no neighbors, so tiles and mirroring change nothing."""
    weights = torch.linspace(-1, 1, 12).view(4, 3, 1, 1)
    return F.conv2d(batch, weights, torch.arange(4.0))


def column(batch: Tensor) -> Tensor:
    """Two classes; the first one's logit is the column's number in what the network is shown, the other's is 0."""
    ramp = torch.arange(batch.shape[-1], dtype=batch.dtype).expand(batch[:, :1].shape)
    return torch.cat([ramp, torch.zeros_like(ramp)], dim=1)


class Recorder:
    """`pointwise`, remembering the sizes it was shown."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, batch: Tensor) -> Tensor:
        self.sizes.append(tuple(batch.shape[-2:]))
        return pointwise(batch)


def test_image_as_it_is_gives_the_networks_own_logits() -> None:
    assert torch.equal(TestTimeAugmentation(pointwise)(images()), pointwise(images()))


@pytest.mark.parametrize("window", [32, (32, 50), [40, 33], 45, 44, (100, 33), 1000])
@pytest.mark.parametrize("flip", [False, True])
def test_tiles_and_mirroring_change_nothing_for_a_pointwise_network(window: int | tuple[int, int], flip: bool) -> None:
    scores = TestTimeAugmentation(pointwise, flip=flip, window=window)(images())
    torch.testing.assert_close(scores, pointwise(images()).softmax(1))


def test_mirrored_view_is_mirrored_back() -> None:
    """Seen directly column x has logit x, mirrored it has width - 1 - x: the mean of both probabilities."""
    scores = TestTimeAugmentation(column, flip=True)(images(33, 40))
    x = torch.arange(40.0)
    expected = (x.sigmoid() + (39 - x).sigmoid()) / 2
    torch.testing.assert_close(scores[:, 0], expected.expand(2, 33, 40))


def test_tiles_are_averaged_where_they_overlap() -> None:
    """Width 63 in windows of 33, step 22: tiles at 0, 22 and 30, each numbering its columns from 0."""
    scores = TestTimeAugmentation(column, window=(1000, 33))(images(40, 63))
    logits = []
    for x in range(63):
        seen = [x - start for start in (0, 22, 30) if 0 <= x - start < 33]
        logits.append(sum(seen) / len(seen))
    torch.testing.assert_close(scores[0, 0], torch.tensor(logits).sigmoid().expand(40, 63))


@pytest.mark.parametrize("window", [32, 33, 47, 64])
def test_tiles_cover_every_length_and_stay_inside(window: int) -> None:
    for length in range(32, 200):
        starts, size = _tiles(length, window)
        assert size == min(window, length)
        assert starts[0] == 0
        assert starts[-1] + size == length
        steps = [b - a for a, b in pairwise(starts)]
        assert all(0 < step <= 2 / 3 * window for step in steps)


@pytest.mark.parametrize(
    "options", [{}, {"window": 32}, {"flip": True}, {"scales": [0.9, 1.1]}, {"refine": lambda scores, _: 3 * scores}]
)
def test_confidences_are_the_probabilities_of_the_best_classes(options: dict[str, Any]) -> None:
    view = TestTimeAugmentation(pointwise, **options)
    classes, confidences = view.classes_and_confidences(images())
    assert torch.equal(classes, view.classes(images()))
    likely = view(images())
    likely = likely.softmax(1) if options.keys() <= {"refine"} else likely
    torch.testing.assert_close(confidences, likely.amax(1))
    assert (classes.dtype, confidences.dtype) == (torch.uint8, torch.float32)


def test_window_sees_tiles_and_small_images_whole() -> None:
    net = Recorder()
    TestTimeAugmentation(net, window=48)(images(48, 100))
    assert net.sizes == [(48, 48)] * 3  # at 0, 32 and, with the edge, 52
    net.sizes.clear()
    TestTimeAugmentation(net, window=48)(images(40, 48))
    assert net.sizes == [(40, 48)]


def test_scales_resize_the_image_and_average_probabilities() -> None:
    net = Recorder()
    batch = images(64, 81)
    scores = TestTimeAugmentation(net, scales=[0.5, 1.0, 1.5])(batch)
    assert net.sizes == [(32, 40), (64, 81), (96, 122)]
    expected = torch.zeros_like(scores)
    for size in net.sizes:
        view = F.interpolate(batch, size, mode="bilinear", antialias=True)
        expected += F.interpolate(pointwise(view), (64, 81), mode="bilinear", antialias=True).softmax(1) / 3
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 64, 81))


def test_scaled_image_lies_where_the_image_lies() -> None:
    """A ramp resized down and its scores up again is the ramp, away from the borders: no shift by half a pixel."""
    ramp = torch.arange(96.0).expand(1, 3, 64, 96) / 96

    def net(batch: Tensor) -> Tensor:
        return torch.cat([batch[:, :1], torch.zeros_like(batch[:, :1])], dim=1)

    scores = TestTimeAugmentation(net, scales=(0.5,))(ramp)
    torch.testing.assert_close(scores[0, 0, :, 8:-8], ramp[0, 0, :, 8:-8].sigmoid())


@pytest.mark.parametrize(("size", "seen"), [((40, 80), (32, 64)), ((33, 50), (32, 48)), ((32, 32), (32, 32))])
def test_small_scales_stop_at_the_smallest_side(size: tuple[int, int], seen: tuple[int, int]) -> None:
    net = Recorder()
    scores = TestTimeAugmentation(net, scales=(0.1,))(images(*size))
    assert net.sizes == [seen]
    assert scores.shape == (2, 4, *size)


def test_half_precision_networks_are_averaged_in_fp32() -> None:
    scores = TestTimeAugmentation(lambda batch: pointwise(batch).bfloat16(), flip=True, window=40)(images())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 45, 61))


def test_records_no_gradient_and_leaves_the_images_alone() -> None:
    batch = images().requires_grad_()
    before = batch.detach().clone()
    assert not TestTimeAugmentation(pointwise, scales=(0.8, 1.0), flip=True)(batch).requires_grad
    assert torch.equal(batch, before)


@pytest.mark.parametrize(
    "options",
    [
        *({"scales": scales} for scales in ((), (1.0, 0.0), (-1,), (1.0, float("inf")))),
        *({"window": window} for window in (31, (64, 8), (64,))),
    ],
)
def test_senseless_options_are_refused(options: dict) -> None:
    with pytest.raises(UserError):
        TestTimeAugmentation(pointwise, **options)


@pytest.mark.parametrize("options", [{}, {"scales": (2.0,)}, {"window": 32}])
def test_too_small_images_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match="31 x 70"):
        TestTimeAugmentation(pointwise, **options)(images(31, 70))
