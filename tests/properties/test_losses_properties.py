"""The loss, whole and in bands, against log-softmax pixel by pixel in float64, value and gradient."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from given import loss_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, laid_out, layouts, random_labels, seeds, sizes, small_network, variants, void_shares
from torch import Tensor

from segrefine.core.labels import VOID
from segrefine.models import logits as logits_module
from segrefine.models.logits import Logits

pytestmark = pytest.mark.usefixtures("one_thread")

reductions = st.sampled_from(["mean", "sum"])


def slow_loss(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, reduction: str
) -> tuple[float, np.ndarray, float]:
    """Loss, its gradient with respect to `logits` (B, K, H, W), float64, and the most that one pixel counts."""
    weights = np.ones(logits.shape[1]) if weights is None else weights
    total, divisor, gradient = 0.0, 0.0, np.zeros_like(logits)
    for image, row, column in np.argwhere(labels != VOID):
        label, scores = labels[image, row, column], logits[image, :, row, column]
        shifted = scores - scores.max()
        logs = shifted - np.log(np.exp(shifted).sum())
        total -= weights[label] * logs[label]
        divisor += weights[label]
        gradient[image, :, row, column] = weights[label] * (np.exp(logs) - (np.arange(len(scores)) == label))
    divisor = 1.0 if reduction == "sum" or divisor == 0 else divisor
    return total / divisor, gradient / divisor, float(weights.max() / divisor)


def random_weights(seed: int, classes: int) -> np.ndarray:
    """Some of them zero."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(classes) < 0.2, 0, rng.uniform(0.01, 10, classes)).astype(np.float32)


@given(
    seed=seeds,
    batch=st.integers(1, 3),
    size=sizes(1, 9),
    classes=st.integers(1, 255),
    void=void_shares,
    weighted=st.booleans(),
    reduction=reductions,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    label_dtype=st.sampled_from([torch.uint8, torch.int64]),
    layout=layouts,
    spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
    band=st.none() | st.integers(1, 3000),
)
def test_value_and_gradient_are_those_of_the_pixel_by_pixel_sum(
    seed: int,
    batch: int,
    size: tuple[int, int],
    classes: int,
    void: float,
    weighted: bool,
    reduction: str,
    dtype: torch.dtype,
    label_dtype: torch.dtype,
    layout: str,
    spread: float,
    band: int | None,
) -> None:
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(spread * rng.standard_normal((batch, classes, *size))).to(dtype)
    labels = random_labels(seed, (batch, *size), classes, void)
    weights = random_weights(seed, classes) if weighted else None
    value, gradient, most = slow_loss(values.float().double().numpy(), labels, weights, reduction)

    logits = laid_out(values, layout).requires_grad_()
    class_weights = None if weights is None else torch.from_numpy(weights)
    truth = torch.from_numpy(labels).to(label_dtype)
    loss = loss_of(logits, truth, class_weights, reduction, band)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(loss, logits)

    assert (loss.dtype, loss.shape, found.dtype) == (torch.float32, (), dtype)
    rounding = 1e-6 * (10 + spread)  # what float32 takes from the difference of two logits
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=rounding * most * labels.size)
    rounding += 2 * torch.finfo(dtype).eps
    np.testing.assert_allclose(found.double().numpy(), gradient, rtol=rounding, atol=rounding * most)
    assert not found.movedim(1, -1)[truth == VOID].any()


@examples(0.5)
@given(
    variant=variants,
    seed=seeds,
    batch=st.integers(1, 2),
    size=sizes(32, 70),
    classes=st.integers(1, 3),
    void=void_shares,
    weighted=st.booleans(),
    reduction=reductions,
    rows=st.integers(5, 70),
)
def test_training_loss_in_bands_is_the_whole_ones_in_value_and_gradients(
    variant: tuple[str, str, dict[str, Any]],
    seed: int,
    batch: int,
    size: tuple[int, int],
    classes: int,
    void: float,
    weighted: bool,
    reduction: str,
    rows: int,
) -> None:
    name, like, options = variant
    net = small_network(seed, name, like, classes, **options)
    images = torch.randn(batch, 3, *size)
    labels = random_labels(seed, (batch, *size), classes, void)
    weights = random_weights(seed, classes) if weighted else None
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]

    truth, class_weights = torch.from_numpy(labels), None if weights is None else torch.from_numpy(weights)
    whole = loss_of(net(images), truth, class_weights, reduction)  # type: ignore[arg-type]
    expected = torch.autograd.grad(whole, trained, materialize_grads=True)
    band = rows * batch * classes * size[1]
    with mock.patch.object(logits_module, "BAND", band):
        loss = Logits(net, images).loss(truth, class_weights, reduction)  # type: ignore[arg-type]
    found = torch.autograd.grad(loss, trained, materialize_grads=True)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-6)
    largest = max(float(part.abs().max()) for part in expected)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 1e-4 * float(theirs.abs().max()) + 1e-7 * largest)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance
