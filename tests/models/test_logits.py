"""The loss against F.cross_entropy and against a pixel-by-pixel sum in float64."""

import math
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from given import loss_of
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.models.logits import Logits
from segrefine.models.tta import TestTimeAugmentation

pytestmark = pytest.mark.usefixtures("narrow")


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
        assert torch.equal(TestTimeAugmentation(net).classes(images), classes)
    assert not loss.requires_grad


SCORED = [
    # (network, encoder, options, stride of its scores, pixel that cell 0 looks at)
    ("fcn32s", "resnet18", {}, 32, 0.0),
    ("fcn8s", "resnet18", {}, 8, 0.0),
    ("fcn8s", "vgg11", {}, 8, 3.5),
    ("fcn8s", "resnet18", {"input_scale": 1.2}, 8, 0.0),
    ("refinenet", "resnet18", {}, 4, 0.0),
    ("refinenet", "vgg11", {"input_scale": 1.2}, 4, 1.5),
    ("refinenet_2scale", "resnet18", {}, 4, 0.0),
    ("fcn_dilated", "resnet50", {"upsample": "interpolate"}, 8, 0.0),
    ("deeplab_largefov", "vgg11", {}, 8, 0.0),
    ("segnet", "vgg11", {}, 1, 0.0),
    ("fcn_dilated", "resnet50", {}, None, None),  # cells share the image evenly
]


def looked_at(cell: int, cells: int, side: int, scale: float, stride: int | None, center: float | None) -> int:
    """The pixel of an axis that a cell looks at, in whole fractions; the later of two that are as near."""
    if stride is None or center is None:
        return math.floor(Fraction(2 * cell + 1, 2 * cells) * side)
    inner = max(32, math.floor(Fraction(str(scale)) * side + Fraction(1, 2))) if scale != 1 else side
    return math.floor((stride * cell + Fraction(center) + Fraction(1, 2)) * side / inner)


@pytest.mark.parametrize("size", [(33, 47), (64, 90)])
@pytest.mark.parametrize(
    ("case", "reduction", "weights"),
    [
        *((case, "mean", [0.5, 2.0, 0.1]) for case in SCORED),
        *((SCORED[0], *reduced) for reduced in (("mean", None), ("sum", [0.5, 2.0, 0.1]))),
    ],
    ids=str,
)
def test_the_loss_at_the_scores_takes_the_labels_that_a_loop_picks(
    case: Any, size: tuple[int, int], reduction: Any, weights: list[float] | None, cheap_model: Any
) -> None:
    name, backbone, options, stride, center = case
    net = cheap_model(name, backbone, **options)
    images = torch.randn(2, 3, *size)
    labels = torch.randint(3, (2, *size), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.3] = VOID
    scores = net(images, upsampled=False)
    rows, columns = (
        [looked_at(cell, cells, side, net.encoder.scale, stride, center) for cell in range(cells)]
        for cells, side in zip(scores.shape[-2:], size, strict=True)
    )
    picked = labels[:, rows][:, :, columns].long()
    class_weights = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(scores, picked, class_weights, ignore_index=VOID, reduction=reduction)
    loss = Logits(net, images, "scores").loss(labels, class_weights, reduction)
    torch.testing.assert_close(loss, expected)
    trained = [parameter for parameter in net.encoder.parameters() if parameter.requires_grad]
    torch.testing.assert_close(torch.autograd.grad(loss, trained), torch.autograd.grad(expected, trained))


@pytest.mark.parametrize("band", [10**6, 1000])
def test_validation_with_the_loss_at_the_scores_finds_the_same_classes(
    band: int, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segrefine.models.logits.BAND", band)
    net = cheap_model("fcn8s", "resnet18")
    images, labels = torch.randn(2, 3, 45, 67), torch.randint(0, 3, (2, 45, 67))
    loss, classes = Logits(net, images, "scores").loss_and_classes(labels)
    picked = labels[:, ::8, ::8]
    torch.testing.assert_close(loss, F.cross_entropy(net(images, upsampled=False), picked), rtol=1e-5, atol=0)
    assert torch.equal(classes, net(images).argmax(1).to(torch.uint8))
    assert not loss.requires_grad


CAFFE = [(name, "vgg11", {"geometry": "caffe"}) for name in ("fcn8s", "fcn32s")]


@pytest.mark.parametrize("size", [(107, 131), (128, 96)])
@pytest.mark.parametrize(("name", "backbone", "options"), [*(case[:3] for case in SCORED), *CAFFE])
def test_labels_are_those_of_the_pixels_where_scores_land(
    name: str, backbone: str, options: Any, size: tuple[int, int], cheap_model: Any
) -> None:
    """A score of 1 among zeros is nowhere larger than on the pixel of its label, but at the edge, where it is held."""
    net = cheap_model(name, backbone, 1, **options)
    height, width = net(torch.randn(1, 3, *size), upsampled=False).shape[-2:]
    pixels = net.labels_at((height, width), 1000 + torch.arange(size[0] * size[1]).view(1, *size))[0]
    beside = (pixels == VOID).sum().item()
    assert (beside > 0) == (options.get("geometry") == "caffe")
    assert pixels.unique().numel() == pixels.numel() - max(beside - 1, 0)
    inner = [cell for cell in product(range(1, height - 1), range(1, width - 1)) if pixels[cell] != VOID]
    for cell in inner[:: max(1, len(inner) // 20)]:
        scores = torch.zeros(1, 1, height, width)
        scores[0, 0, cell[0], cell[1]] = 1
        landed = net.upsample(scores, size).flatten()
        assert landed[pixels[cell] - 1000] >= landed.max() - 1e-6
        assert landed.max() > 0.5
    assert inner


def test_where_no_cell_says_where_it_looks_the_loss_at_the_scores_is_refused(cheap_model: Any) -> None:
    net = cheap_model("fcn32s", "resnet18")
    net.decoder.to_pixels = torch.nn.Identity()
    with pytest.raises(UserError, match=r"recipe\.loss_at=scores: FCNDecoder\.to_pixels has no method `positions`"):
        Logits(net, torch.randn(1, 3, 32, 32), "scores").loss(torch.zeros(1, 32, 32, dtype=torch.uint8))
