"""The losses of `recipe.loss` against pixel-by-pixel sums in float64, and against other libraries."""

from typing import Any

import numpy as np
import pytest
import torch
from given import loss_of
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from segrefine.core.labels import VOID
from segrefine.models.logits import Logits

pytestmark = pytest.mark.usefixtures("one_thread")


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


Pixels = list[tuple[np.ndarray, int]]
"""Of each pixel that is not void the probabilities (K,) and the class."""


def pixels(logits: Tensor, labels: Tensor) -> Pixels:
    scores, truth = logits.double().detach().numpy(), labels.numpy()
    return [(softmax(scores[b, :, y, x]), int(truth[b, y, x])) for b, y, x in np.argwhere(truth != VOID)]


def weighted(values: list[float], weights: list[float]) -> float:
    total = sum(weights)
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total if total else 0.0


def slow_focal(found: Pixels, weights: np.ndarray) -> float:
    return weighted([-((1 - p[c]) ** 2) * np.log(p[c]) for p, c in found], [weights[c] for _, c in found])


def slow_ohem(found: Pixels, weights: np.ndarray) -> float:
    ranked = sorted(found, key=lambda pixel: pixel[0][pixel[1]])
    hard = [pixel for pixel in ranked if pixel[0][pixel[1]] <= 0.7]
    hard = hard if len(hard) > len(found) // 16 else ranked[: max(len(found) // 16, 1)]
    return weighted([-np.log(p[c]) for p, c in hard], [weights[c] for _, c in hard])


def slow_dice(found: Pixels, weights: np.ndarray) -> float:
    losses, shares = [], []
    for number in sorted({c for _, c in found}):
        both = sum(p[number] for p, c in found if c == number)
        losses.append(1 - 2 * both / (sum(p[number] for p, _ in found) + sum(c == number for _, c in found)))
        shares.append(weights[number])
    return weighted(losses, shares)


def slow_lovasz(found: Pixels, weights: np.ndarray) -> float:
    """The IoU loss of sets of wrong pixels, of which the next one joins in the order of the errors."""
    losses, shares = [], []
    for number in sorted({c for _, c in found}):
        truth = {place for place, (_, c) in enumerate(found) if c == number}
        errors = {place: abs((c == number) - p[number]) for place, (p, c) in enumerate(found)}
        wrong: set[int] = set()
        total, before = 0.0, 0.0
        for place in sorted(errors, key=lambda place: -errors[place]):
            wrong.add(place)
            now = len(wrong) / len(truth | wrong)
            total, before = total + errors[place] * (now - before), now
        losses.append(total)
        shares.append(weights[number])
    return weighted(losses, shares)


SLOW = {"focal": slow_focal, "ohem": slow_ohem, "dice": slow_dice, "lovasz": slow_lovasz}


def batch(classes: int, size: tuple[int, int], void: float, spread: float) -> tuple[Tensor, Tensor]:
    logits = spread * torch.randn(2, classes, *size)
    labels = torch.randint(min(classes, 4), (2, *size), dtype=torch.uint8)  # further classes are absent
    return logits, labels.masked_fill(torch.rand(labels.shape) < void, VOID)


CASES = [  # K, (H, W), the share of void, and how far apart logits are
    (5, (7, 9), 0.3, 2.0),
    (6, (5, 4), 0.0, 9.0),
    (1, (3, 3), 0.2, 1.0),
    (2, (1, 1), 0.0, 1.0),
    (3, (4, 5), 0.97, 1.0),
]


@pytest.mark.parametrize("band", [None, 30])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", SLOW)
def test_value_is_that_of_the_pixel_by_pixel_sum(
    name: Any, case: tuple[int, tuple[int, int], float, float], weighted: bool, band: int | None
) -> None:
    """Whole and in bands of a few rows; one class, one pixel, hardly a pixel that is not void; weights of which the
    first is 0."""
    (logits, labels), classes = batch(*case), case[0]
    weights = torch.linspace(0, 2, classes) if weighted and classes > 1 else None
    found = loss_of(logits, labels, weights, name, band)
    expected = SLOW[name](pixels(logits, labels), np.ones(classes) if weights is None else weights.numpy())
    assert (found.dtype, found.shape) == (torch.float32, ())
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", [*SLOW, "mean"])
def test_gradients_are_those_of_finite_differences(name: Any) -> None:
    """Along a random direction; the reference is smooth wherever the order of the errors is the same."""
    logits, labels = batch(4, (6, 5), 0.2, 2.0)
    labels[0, 0, 0] = VOID
    logits = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(logits, labels, None, name), logits)
    assert not gradient[0, :, 0, 0].any()
    direction = torch.randn_like(logits)
    slow = SLOW.get(name, lambda found, _: weighted([-np.log(p[c]) for p, c in found], [1] * len(found)))
    up, down = (slow(pixels(logits + step * direction, labels), np.ones(4)) for step in (1e-5, -1e-5))
    assert (gradient * direction).sum().item() == pytest.approx((up - down) / 2e-5, rel=1e-3)


@pytest.mark.parametrize("band", [None, 30])
@pytest.mark.parametrize("loss", [*SLOW, {"mean": 1.0, "dice": 0.5, "lovasz": 2.0}])
def test_all_void_gives_zero_loss_and_zero_gradient(loss: Any, band: int | None) -> None:
    logits = torch.randn(2, 3, 5, 6, requires_grad=True)
    for weights in (None, torch.tensor([0.0, 1.0, 2.0])):
        value = loss_of(logits, torch.full((2, 5, 6), VOID), weights, loss, band)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("loss", [*SLOW, {"mean": 1.0, "dice": 0.5}])
def test_void_padding_changes_nothing(loss: Any) -> None:
    logits, labels = batch(4, (6, 7), 0.1, 2.0)
    grown = torch.nn.functional.pad(logits, (0, 9, 0, 8)), torch.nn.functional.pad(labels, (0, 9, 0, 8), value=VOID)
    torch.testing.assert_close(loss_of(*grown, None, loss), loss_of(logits, labels, None, loss))


@pytest.mark.parametrize("name", SLOW)
def test_scores_that_are_certain_are_finite(name: Any) -> None:
    """Right or wrong, in half precision and in a batch of one class."""
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    for sign, least in ((1, 0.0), (-1, 0.9)):
        scores = sign * 1e4 * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
        logits = scores.expand(1, 2, 4, 4).bfloat16().requires_grad_()
        value = loss_of(logits, labels, None, name)
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all()
        assert value.item() >= least
        assert value.isfinite()


def test_a_sum_adds_up_with_its_factors() -> None:
    logits, labels = batch(4, (6, 7), 0.1, 2.0)
    terms: Any = {"mean": 0.25, "dice": 3.0, "sum": 1e-3}
    expected = sum(factor * loss_of(logits, labels, None, name) for name, factor in terms.items())  # type: ignore[arg-type]
    for band in (None, 60):
        torch.testing.assert_close(loss_of(logits, labels, None, terms, band), expected)


def test_runs_in_deterministic_mode() -> None:
    logits, labels = batch(3, (5, 6), 0.2, 1.0)
    torch.use_deterministic_algorithms(True)
    try:
        for name in SLOW:
            loss_of(logits.requires_grad_(), labels, None, name).backward()  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("name", "theirs"), [("dice", "DiceLoss"), ("lovasz", "LovaszLoss")])
def test_equals_segmentation_models_pytorch(name: Any, theirs: str) -> None:
    """Where all classes are present: it averages Dice over absent ones too."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch(4, (9, 11), 0.2, 2.0)
    expected = getattr(smp.losses, theirs)("multiclass", ignore_index=VOID)(logits, labels.long())
    torch.testing.assert_close(loss_of(logits, labels, None, name), expected, rtol=1e-5, atol=1e-6)


def test_focal_loss_of_two_classes_is_torchvisions_of_one_logit() -> None:
    logits, labels = batch(2, (9, 11), 0.0, 2.0)
    one = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(one, labels.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(loss_of(logits, labels, None, "focal"), expected)


@pytest.mark.parametrize("loss_at", ["pixels", "scores"])
@pytest.mark.parametrize("name", ["fcn8s", "refinenet"])
def test_networks_learn_from_bands_and_scores_as_from_the_whole(
    name: str, loss_at: Any, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In value and in the gradients of all that is trained, with every loss at once."""
    net, loss = cheap_model(name, "resnet18"), {"mean": 1.0, "ohem": 0.5, "dice": 1.0, "focal": 2.0, "lovasz": 1.0}
    images, labels = torch.randn(2, 3, 45, 67), torch.randint(0, 3, (2, 45, 67))
    labels[:, :9] = VOID
    parts = net.encoder, net.decoder.score if name == "fcn8s" else net.decoder.refine
    trained = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    stride = {"fcn8s": 8, "refinenet": 4}[name]
    with torch.enable_grad():
        scores = net(images, upsampled=loss_at == "pixels")
    seen = labels if loss_at == "pixels" else labels[:, ::stride, ::stride]
    whole = loss_of(scores, seen, None, loss)  # type: ignore[arg-type]
    expected = torch.autograd.grad(whole, trained)
    monkeypatch.setattr("segrefine.models.logits.BAND", 3000)
    value = Logits(net, images, loss_at).loss(labels, None, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(value, whole, rtol=1e-5, atol=0)
    for ours, theirs in zip(torch.autograd.grad(value, trained), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    without, classes = Logits(net, images, loss_at).loss_and_classes(labels, None, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(without, whole, rtol=1e-5, atol=0)
    assert torch.equal(classes, net(images).argmax(1).to(torch.uint8))
