"""The loss against F.cross_entropy and against a pixel-by-pixel sum in float64."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from given import loss_of
from torch import Tensor

from segrefine.core.labels import VOID
from segrefine.models.logits import Logits
from segrefine.models.tta import Inference


def batch(classes: int = 5, void: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 7, 9, generator=generator)
    labels = torch.randint(0, classes, (2, 7, 9), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = VOID
    return logits, labels


def by_hand(logits: Tensor, labels: Tensor, weights: list[float]) -> tuple[float, float]:
    """Sums over valid pixels of weighted losses and of weights, with math.exp and math.log only."""
    losses, total = 0.0, 0.0
    for scores, label in zip(logits.permute(0, 2, 3, 1).flatten(0, 2).tolist(), labels.flatten().tolist(), strict=True):
        if label != VOID:
            losses += weights[label] * (math.log(sum(math.exp(score) for score in scores)) - scores[label])
            total += weights[label]
    return losses, total


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0, 3.0]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_and_sum_equal_the_pixel_by_pixel_sum(
    weights: list[float] | None, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    logits, labels = batch()
    losses, total = by_hand(logits, labels, weights or [1.0] * 5)
    logits, labels = logits.contiguous(memory_format=layout), labels.to(dtype)
    class_weights = None if weights is None else torch.tensor(weights)
    assert loss_of(logits, labels, class_weights).item() == pytest.approx(losses / total, rel=1e-5)
    assert loss_of(logits, labels, class_weights, "sum").item() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 0.1, 1.0, 3.0])])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_equals_cross_entropy(weights: Tensor | None, reduction: str) -> None:
    logits, labels = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss_of(ours, labels, weights, reduction).backward()  # type: ignore[arg-type]
    F.cross_entropy(theirs, labels, weights, ignore_index=VOID, reduction=reduction).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert not ours.grad.permute(0, 2, 3, 1)[labels == VOID].any()


@pytest.mark.parametrize("weights", [None, torch.ones(5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_void_gives_zero_loss_and_zero_gradient(weights: Tensor | None, reduction: str) -> None:
    logits, labels = batch(void=1.1)
    logits.requires_grad_()
    loss = loss_of(logits, labels, weights, reduction)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("weights", [None, torch.ones(5), torch.zeros(5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_void_in_bands_too(weights: Tensor | None, reduction: str) -> None:
    logits, labels = batch(void=1.1)
    logits.requires_grad_()
    loss = loss_of(logits, labels, weights, reduction, band=100)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pixels_of_classes_that_weigh_nothing_alone_give_zero(reduction: str) -> None:
    logits, _ = batch()
    labels = torch.ones(2, 7, 9, dtype=torch.int64)
    logits.requires_grad_()
    loss = loss_of(logits, labels, torch.tensor([1.0, 0.0, 1, 1, 1]), reduction)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mean_does_not_depend_on_how_much_is_void() -> None:
    """Void padding must not change the effective learning rate."""
    logits, labels = batch()
    padded = loss_of(F.pad(logits, (0, 20, 0, 20)), F.pad(labels, (0, 20, 0, 20), value=VOID))
    torch.testing.assert_close(padded, loss_of(logits, labels))


def test_is_computed_in_fp32_for_half_precision_logits_and_under_autocast() -> None:
    logits, labels = batch()
    logits = (20 * logits).bfloat16()
    expected = by_hand(logits, labels, [1.0] * 5)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = loss_of(logits, labels, reduction="sum")
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[0], rel=1e-5)


def test_runs_in_deterministic_mode_and_with_one_class() -> None:
    logits, labels = batch(classes=1)
    torch.use_deterministic_algorithms(True)
    try:
        assert loss_of(logits, labels).item() == 0  # one class is certain
    finally:
        torch.use_deterministic_algorithms(False)


def test_label_outside_the_classes_is_refused() -> None:
    logits, labels = batch()
    labels[0, 0, 0] = 5
    with pytest.raises(IndexError):
        loss_of(logits, labels)


@pytest.mark.parametrize("name", ["fcn8s", "refinenet_lw"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 0.1])])
def test_loss_in_bands_is_the_whole_ones_in_value_and_gradients(
    name: str, reduction: str, weights: Tensor | None, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every parameter, over an odd size; and no band is larger than was asked for."""
    net = cheap_model(name, "resnet18")
    images, labels = torch.randn(2, 3, 45, 67), torch.randint(0, 3, (2, 45, 67))
    labels[:, :9] = VOID
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    whole = loss_of(net(images), labels, weights, reduction)  # type: ignore[arg-type]
    expected = torch.autograd.grad(whole, trained)

    sizes = []
    plain = F.cross_entropy
    monkeypatch.setattr(
        F,
        "cross_entropy",
        lambda logits, *more, **options: sizes.append(logits.numel()) or plain(logits, *more, **options),
    )
    monkeypatch.setattr("segrefine.models.logits.BAND", 3000)
    loss = Logits(net, images).loss(labels, weights, reduction)  # type: ignore[arg-type]
    found = torch.autograd.grad(loss, trained)
    assert max(sizes) <= 3000
    assert len(sizes) > 2 * 45 // 8
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * theirs.abs().max().item())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 0.1])])
def test_validation_in_bands_is_the_whole_ones(
    reduction: str, weights: Tensor | None, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = cheap_model("fcn8s", "resnet18")
    images, labels = torch.randn(2, 3, 45, 67), torch.randint(0, 3, (2, 45, 67))
    labels[:, :9] = VOID
    logits = net(images)
    for band in (10**6, 1000):
        monkeypatch.setattr("segrefine.models.logits.BAND", band)
        found = Logits(net, images)
        assert len(list(found)) == (1 if band == 10**6 else 23)
        loss, classes = found.loss_and_classes(labels, weights, reduction)  # type: ignore[arg-type]
        whole = loss_of(logits, labels, weights, reduction)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, whole, rtol=1e-5, atol=0)
        assert torch.equal(classes, logits.argmax(1).to(torch.uint8))
        assert torch.equal(found.classes(), classes)
        assert torch.equal(Inference(net).classes(images), classes)
    assert not loss.requires_grad
