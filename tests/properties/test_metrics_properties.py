"""Counts and scores against loops over pixels and distance transforms, and what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt
from strategies import examples, random_labels, seeds, sizes, void_shares

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.metrics.scores import scores_from_counts
from segrefine.metrics.segmentation import SegmentationMetrics, image_counts

pytestmark = pytest.mark.usefixtures("one_thread")

classes_drawn = st.integers(1, 6) | st.integers(1, VOID)


def slow_confusion(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(K, K), rows truth and columns prediction, of maps of any shape."""
    matrix = np.zeros((classes, classes), int)
    for prediction, label in zip(predictions.flat, labels.flat, strict=True):
        if label != VOID:
            matrix[label, prediction] += 1
    return matrix


def band(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask as near to what is outside it, or the image, as Boundary IoU says; distances over squares."""
    distance = max(1, round(0.02 * float(np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))
    away = distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    return mask & (away <= distance)


def slow_counts(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """`COUNTS` of one image, (6, K)."""
    matrix = slow_confusion(predictions, labels, classes)
    predictions = np.where(labels == VOID, VOID, predictions)
    bands = [(band(labels == number), band(predictions == number)) for number in range(classes)]
    boundary = [[(truth & prediction).sum(), truth.sum(), prediction.sum()] for truth, prediction in bands]
    return np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0), *np.transpose(boundary)])


def slow_scores(matrix: np.ndarray, boundary: np.ndarray) -> dict[str, float]:
    """Long et al.'s four formulas and Boundary IoU, class by class; NaN where there is nothing to divide by."""
    ious, accuracies, boundary_ious, weighted = [], [], [], 0.0
    for number in range(len(matrix)):
        hits, truth, prediction = matrix[number, number], matrix[number].sum(), matrix[:, number].sum()
        if truth + prediction:
            ious.append(hits / (truth + prediction - hits))
            weighted += truth * ious[-1]
        if truth:
            accuracies.append(hits / truth)
        shared, one, other = boundary[:, number]
        if one + other:
            boundary_ious.append(shared / (one + other - shared))
    total = matrix.sum()
    return {
        "mIoU": np.mean(ious) if ious else np.nan,
        "pixel_acc": matrix.trace() / total if total else np.nan,
        "mean_acc": np.mean(accuracies) if accuracies else np.nan,
        "fwIoU": weighted / total if total else np.nan,
        "boundary_IoU": np.mean(boundary_ious) if boundary_ious else np.nan,
    }


def random_maps(seed: int, shape: tuple[int, ...], classes: int, void: float) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that is the truth moved a little, with a share of errors from none to all; and the truth."""
    rng = np.random.default_rng(seed)
    labels = random_labels(seed, shape, classes, void)
    moved = np.roll(random_labels(seed, shape, classes, 0), rng.integers(-2, 3, 2), (-2, -1))
    wrong = rng.random(shape) < rng.choice([0, 0.05, 1])
    return np.where(wrong, rng.integers(0, classes, shape), moved).astype(np.uint8), labels


def state(metrics: SegmentationMetrics) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in (metrics.confusion, metrics.boundary, metrics.unknown)]


@examples(0.5)
@given(
    seed=seeds,
    batch=st.integers(1, 3),
    size=sizes(1, 70),
    classes=classes_drawn,
    void=void_shares,
    dtypes=st.tuples(*[st.sampled_from([torch.uint8, torch.int64, torch.int32])] * 2),
    strided=st.booleans(),
)
def test_counts_and_scores_are_those_of_loops(
    seed: int,
    batch: int,
    size: tuple[int, int],
    classes: int,
    void: float,
    dtypes: tuple[torch.dtype, torch.dtype],
    strided: bool,
) -> None:
    predictions, labels = random_maps(seed, (batch, *size), classes, void)
    maps = [torch.from_numpy(array).to(dtype) for array, dtype in zip((predictions, labels), dtypes, strict=True)]
    maps = [array.mT.contiguous().mT if strided else array for array in maps]
    expected = np.stack([slow_counts(*pair, classes) for pair in zip(predictions, labels, strict=True)])
    counts = image_counts(maps[0], maps[1], classes)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts, expected)

    matrix = slow_confusion(predictions, labels, classes)
    metrics = SegmentationMetrics(classes)
    metrics.update(*maps)
    np.testing.assert_array_equal(metrics.confusion, matrix)
    np.testing.assert_array_equal(metrics.boundary, expected.sum(0)[3:])
    scores = metrics.compute()
    slow = slow_scores(matrix, expected.sum(0)[3:])
    assert {name: scores[name].item() for name in slow} == pytest.approx(slow, abs=1e-12, nan_ok=True)
    assert all(np.isnan(value) or 0 <= value <= 1 for value in scores["per_class"])


@given(
    seed=seeds,
    images=st.integers(1, 8),
    ranks=st.integers(1, 4),
    size=sizes(1, 20),
    classes=st.integers(1, 9),
    void=void_shares,
)
def test_batches_order_and_processes_change_nothing(
    seed: int, images: int, ranks: int, size: tuple[int, int], classes: int, void: float
) -> None:
    """Images are dealt to processes and batches at random, some of them more than once, which `keep_images` undoes."""
    rng = np.random.default_rng(seed)
    predictions, labels = map(torch.from_numpy, random_maps(seed, (images, *size), classes, void))
    whole = SegmentationMetrics(classes)
    whole.update(predictions, labels)

    order = rng.permutation(images)
    parts = []
    for share in np.array_split(order, ranks):
        parts.append(SegmentationMetrics(classes))
        for batch in np.array_split(share, rng.integers(1, 4)):
            parts[-1].update(predictions[batch], labels[batch])
    for sums in zip(*map(state, parts), state(whole), strict=True):
        np.testing.assert_array_equal(sum(sums[:-1]), sums[-1])

    kept = SegmentationMetrics(classes, keep_images=True)
    for batch in np.array_split(np.concatenate([order, rng.choice(order, 3)]), rng.integers(1, 4)):
        kept.update(predictions[batch], labels[batch], torch.from_numpy(batch))
    scores, expected = kept.compute(), whole.compute()
    np.testing.assert_array_equal(scores.pop("indices"), range(images))
    np.testing.assert_array_equal(scores.pop("image_counts")[:, :6], image_counts(predictions, labels, classes))
    for name, value in expected.items():
        np.testing.assert_array_equal(scores[name], value, name)


@given(seed=seeds, size=sizes(1, 40), classes=st.integers(1, 30), void=void_shares)
def test_names_of_classes_turns_of_the_image_and_what_is_said_of_void_change_nothing(
    seed: int, size: tuple[int, int], classes: int, void: float
) -> None:
    rng = np.random.default_rng(seed)
    predictions, labels = random_maps(seed, (1, *size), classes, void)
    counts = image_counts(torch.from_numpy(predictions), torch.from_numpy(labels), classes)
    anything = np.where(labels == VOID, rng.integers(0, classes, labels.shape), predictions)
    turns = int(rng.integers(4))
    turned = [torch.from_numpy(np.rot90(array, turns, (1, 2))[:, ::-1].copy()) for array in (anything, labels)]
    assert torch.equal(image_counts(*turned, classes), counts)

    renamed = np.append(rng.permutation(classes), [VOID] * (256 - classes)).astype(np.uint8)
    others = image_counts(torch.from_numpy(renamed[predictions]), torch.from_numpy(renamed[labels]), classes)
    assert torch.equal(others[:, :, renamed[:classes].astype(int)], counts)
    before, after = (scores_from_counts(each[0].numpy()) for each in (counts, others))
    assert after["mIoU"].item() == pytest.approx(before["mIoU"].item(), nan_ok=True)


@given(seed=seeds, size=sizes(1, 12), classes=st.integers(1, 200), near=st.booleans())
def test_values_that_are_no_class_are_counted_and_refused(
    seed: int, size: tuple[int, int], classes: int, near: bool
) -> None:
    rng = np.random.default_rng(seed)
    low, high = (-1, classes + 2) if near else (-300, 600)
    predictions, labels = rng.integers(low, high, (2, 1, *size))
    bad = [
        label != VOID and not (0 <= label < classes and 0 <= prediction < classes)
        for prediction, label in zip(predictions.flat, labels.flat, strict=True)
    ]
    metrics = SegmentationMetrics(classes)
    metrics.update(torch.from_numpy(predictions), torch.from_numpy(labels))
    assert metrics.unknown == sum(bad)
    if any(bad):
        with pytest.raises(UserError, match=f"^{sum(bad)} pixels have a label or prediction"):
            metrics.compute()
    else:
        metrics.compute()


@examples(0.2)
@given(number=st.integers(-5, 1000))
def test_classes_that_fit_beside_void_in_a_byte_are_allowed(number: int) -> None:
    if 1 <= number <= 255:
        assert SegmentationMetrics(number).confusion.shape == (number, number)
    else:
        with pytest.raises(UserError, match=f"between 1 and 255, got {number}"):
            SegmentationMetrics(number)
