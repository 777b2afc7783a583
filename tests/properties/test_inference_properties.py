"""Scales, mirroring and windows against a few lines of numpy in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, seeds, sizes
from test_transforms_properties import anything
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.models.tta import TestTimeAugmentation

pytestmark = pytest.mark.usefixtures("one_thread")
image_sizes = sizes(32, 90)


def blurred(images: Tensor) -> Tensor:
    """Three classes; looks at neighbors, tells left from right, and where in what it is shown a pixel lies."""
    taps = torch.linspace(-1, 1, 3 * 3 * 5 * 5, dtype=images.dtype).view(3, 3, 5, 5).sin()
    rows = torch.linspace(0, 1, images.shape[-2], dtype=images.dtype)[:, None]
    return F.conv2d(images, taps, padding=2) + rows + torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype)


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, smoothed before it shrinks: triangles as wide as the coarser of the two grids."""
    matrices = []
    for out, have in zip(size, images.shape[-2:], strict=True):
        centers = (np.arange(out) + 0.5) * have / out
        away = np.abs(centers[:, None] - (np.arange(have) + 0.5)) / max(have / out, 1)
        weights = (1 - away).clip(0)
        matrices.append(weights / weights.sum(1, keepdims=True))
    return matrices[0] @ images @ matrices[1].T


def slow_tiles(images: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Logits averaged over windows that step by two thirds of their size; the last ends with the image."""
    sides = [min(pair) for pair in zip(images.shape[-2:], window, strict=True)]
    corners = []
    for length, side in zip(images.shape[-2:], sides, strict=True):
        starts, start = [], 0
        while start + side < length:
            starts.append(start)
            start += side * 2 // 3
        corners.append([*starts, length - side])
    total, count = 0 * blurred(torch.from_numpy(images)).numpy(), np.zeros(images.shape[-2:])
    for top in corners[0]:
        for left in corners[1]:
            part = np.s_[..., top : top + sides[0], left : left + sides[1]]
            total[part] += blurred(torch.from_numpy(images[part])).numpy()
            count[part] += 1
    return total / count


def slow_scores(images: np.ndarray, scales: list[float], flip: bool, window: tuple[int, int] | None) -> np.ndarray:
    views = []
    for scale in scales:
        size = images.shape[-2:]
        scale = max(scale, 32 / min(size))
        view = resized(images, (round(size[0] * scale), round(size[1] * scale)))
        for turn in (1, -1) if flip else (1,):
            logits = slow_tiles(view[..., ::turn].copy(), window or view.shape[-2:])[..., ::turn]
            powers = np.exp(resized(logits, size))
            views.append(powers / powers.sum(1, keepdims=True))
    return np.mean(views, axis=0)


@examples(0.5)
@given(
    seed=seeds,
    size=image_sizes,
    batch=st.integers(1, 2),
    scales=st.lists(st.floats(0.05, 2), min_size=1, max_size=3),
    flip=st.booleans(),
    window=st.none() | sizes(32, 120) | st.integers(32, 120),
)
def test_scores_are_the_mean_over_views(
    seed: int,
    size: tuple[int, int],
    batch: int,
    scales: list[float],
    flip: bool,
    window: tuple[int, int] | int | None,
) -> None:
    images = np.random.default_rng(seed).standard_normal((batch, 3, *size))
    scores = TestTimeAugmentation(blurred, scales=[1.0, *scales], flip=flip, window=window)(
        torch.from_numpy(images).float()
    )
    windows = (window, window) if isinstance(window, int) else window
    np.testing.assert_allclose(scores, slow_scores(images, [1.0, *scales], flip, windows), atol=2e-4)
    torch.testing.assert_close(scores.sum(1), torch.ones(batch, *size))


@given(seed=seeds, size=image_sizes, more=st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_a_window_that_holds_the_image_changes_nothing(seed: int, size: tuple[int, int], more: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    images = torch.randn(1, 3, *size)
    window = (size[0] + more[0], size[1] + more[1])
    torch.testing.assert_close(TestTimeAugmentation(blurred, window=window)(images), blurred(images).softmax(1))
    assert torch.equal(TestTimeAugmentation(blurred)(images), blurred(images))


@given(scales=anything | st.lists(st.floats(max_value=4), max_size=3), window=anything | sizes(0, 50))
def test_options_are_usable_or_refused_in_words(scales: object, window: object) -> None:
    try:
        inference = TestTimeAugmentation(blurred, scales=scales, window=window)  # type: ignore[arg-type]
    except UserError as error:
        assert str(error).startswith(("tta.scales=", "window="))  # noqa: PT017
        return
    if max(inference.scales) < 8:
        assert inference(torch.zeros(1, 3, 33, 40)).shape == (1, 3, 33, 40)
    assert max(inference.scales) < float("inf")
