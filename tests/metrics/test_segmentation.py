"""Scores against slow, independent per-class references in numpy, hand-made cases, and torchmetrics where it agrees."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.metrics.scores import COUNTS, scores_from_counts
from segrefine.metrics.segmentation import SegmentationMetrics, image_counts

SCORES = ("mIoU", "pixel_acc", "mean_acc", "fwIoU", "boundary_IoU")
Arrays = tuple[np.ndarray, np.ndarray]


def eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """Erosion with a 3x3 square, as often as asked; outside the image there is nothing."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.all([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return mask


def slow_counts(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """`COUNTS` of one image, class by class: (6, K)."""
    distance = max(1, round(0.02 * float(np.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2))))
    rows = []
    for number in range(classes):
        truth, prediction = labels == number, (predictions == number) & (labels != VOID)
        bands = truth & ~eroded(truth, distance), prediction & ~eroded(prediction, distance)
        masks = (truth & prediction, truth, prediction, bands[0] & bands[1], *bands)
        rows.append([int(mask.sum()) for mask in masks])
    return np.array(rows).T


def slow_scores(counts: np.ndarray) -> dict[str, float]:
    """The five scores in plain Python, with the rules on absent classes as `if`s."""
    rows = [dict(zip(COUNTS, map(int, column), strict=True)) for column in counts.T]
    total = sum(row["truth"] for row in rows)
    ious, boundary, accuracies, weighted = [], [], [], 0.0
    for row in rows:
        if union := row["truth"] + row["prediction"] - row["intersection"]:
            ious.append(row["intersection"] / union)
            weighted += row["truth"] * ious[-1] / total
        if union := row["boundary_truth"] + row["boundary_prediction"] - row["boundary_intersection"]:
            boundary.append(row["boundary_intersection"] / union)
        if row["truth"]:
            accuracies.append(row["intersection"] / row["truth"])
    hits = sum(row["intersection"] for row in rows)
    means = [sum(values) / len(values) for values in (ious, accuracies, boundary)]
    return dict(zip(SCORES, (means[0], hits / total, means[1], weighted, means[2]), strict=True))


def maps(size: tuple[int, int, int], classes: int, void: float = 0.1, seed: int = 0) -> Arrays:
    """Blocks of labels with void pixels and a prediction that is partly wrong; class K-2 is never the truth."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (size[0], size[1] // 9 + 1, size[2] // 9 + 1))
    labels = coarse.repeat(9, 1).repeat(9, 2)[:, : size[1], : size[2]]
    predictions = np.where(random.random(size) < 0.05, random.integers(0, classes, size), np.roll(labels, 2, 2))
    labels[labels == classes - 2] = classes - 1
    labels[random.random(size) < void / 10] = VOID
    labels[:, : max(1, round(void * size[1]))] = VOID
    return predictions, labels.astype(np.uint8)


def arrays(metrics: SegmentationMetrics) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in metrics.compute().items()}


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("size", "classes"), [((2, 37, 53), 5), ((3, 1, 1), 3), ((1, 2, 90), 3), ((1, 121, 97), 21), ((2, 33, 32), 150)]
)
def test_counts_per_image_equal_the_per_class_reference(size: tuple[int, int, int], classes: int) -> None:
    predictions, labels = maps(size, classes)
    expected = np.stack([slow_counts(*pair, classes) for pair in zip(predictions, labels, strict=True)])
    for dtype in (torch.uint8, torch.int64):
        counts = image_counts(torch.from_numpy(predictions), torch.from_numpy(labels).to(dtype), classes)
        assert counts.dtype == torch.int64
        np.testing.assert_array_equal(counts.numpy(), expected)


def test_scores_over_a_set_in_unequal_batches(deterministic: None) -> None:
    predictions, labels = maps((5, 41, 67), 6)
    metrics = SegmentationMetrics(6)
    for batch in (slice(0, 2), slice(2, 5)):
        metrics.update(torch.from_numpy(predictions[batch]), torch.from_numpy(labels[batch]))
    total = sum(slow_counts(*pair, 6) for pair in zip(predictions, labels, strict=True))
    scores = metrics.compute()
    assert {name: scores[name].item() for name in SCORES} == pytest.approx(slow_scores(np.array(total)), abs=1e-12)
    assert 0.1 < scores["boundary_IoU"] < scores["mIoU"] - 0.1  # a shifted prediction hurts boundaries most
    reference = MulticlassJaccardIndex(6, ignore_index=VOID)(torch.from_numpy(predictions), torch.from_numpy(labels))
    assert scores["mIoU"].item() == pytest.approx(reference.item(), abs=1e-6)


def test_confusion_matrix_has_truth_in_rows() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(torch.tensor([[[0, 1, 1, 2, 2, 0]]]), torch.tensor([[[0, 0, 1, 1, 1, VOID]]]))
    assert metrics.confusion.tolist() == [[1, 1, 0], [0, 1, 2], [0, 0, 0]]


def test_scores_written_out() -> None:
    """Four pixels of class 0, two of class 1, none of class 2 (predicted once) nor of class 3 (never predicted)."""
    metrics = SegmentationMetrics(4)
    metrics.update(torch.tensor([[[0, 0, 0, 1], [1, 2, 0, 3]]]), torch.tensor([[[0, 0, 0, 0], [1, 1, VOID, VOID]]]))
    scores = metrics.compute()
    assert scores["per_class"].tolist() == pytest.approx([3 / 4, 1 / 3, 0, float("nan")], nan_ok=True)
    assert scores["mIoU"].item() == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert scores["pixel_acc"].item() == pytest.approx(4 / 6)
    assert scores["mean_acc"].item() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores["fwIoU"].item() == pytest.approx((4 * 3 / 4 + 2 * 1 / 3) / 6)


def test_boundary_of_a_square_written_out() -> None:
    """A 60x80 image (diagonal 100, so 2 pixels wide) with a 20x20 square, predicted 1 pixel to the right."""
    labels = torch.zeros(1, 60, 80, dtype=torch.uint8)
    labels[:, 20:40, 20:40] = 1
    counts = image_counts(labels.roll(1, 2).long(), labels, 2)[0]
    ring = 20**2 - 16**2
    # Rings of thickness 2, a pixel apart: 2 full sides less a column each, and one of 2 columns of the other sides.
    overlap = 2 * (2 * 19) + 2 * 16
    assert counts[3:, 1].tolist() == [overlap, ring, ring]
    outside = (60 * 80 - 56 * 76) + (24**2 - 20**2)  # along the image border and around the square
    assert counts[4:, 0].tolist() == [outside, outside]


def test_void_is_an_edge_of_both_maps_and_never_counts() -> None:
    """What the prediction says on void cannot matter; the band along void is the same in both maps."""
    labels = torch.zeros(1, 40, 40, dtype=torch.uint8)
    labels[:, 20:] = VOID
    expected = [800, 800, 800, 800 - 18 * 38, 800 - 18 * 38, 800 - 18 * 38]  # width round(0.02 * 56.6) = 1
    for value in (0, 1):
        predictions = torch.where(labels == VOID, value, 0)
        assert image_counts(predictions, labels, 2)[0].tolist() == [[count, 0] for count in expected]


def test_perfect_and_hopeless_predictions() -> None:
    labels = torch.from_numpy(maps((1, 50, 70), 5)[1])
    perfect = scores_from_counts(image_counts(labels, labels, 5)[0].numpy())
    assert [perfect[name].item() for name in SCORES] == [1.0] * 5
    hopeless = scores_from_counts(image_counts((labels.long() + 1) % 5, labels, 5)[0].numpy())
    assert [hopeless[name].item() for name in SCORES] == [0.0] * 5


def test_all_void_has_no_score_and_adds_nothing() -> None:
    void = torch.full((1, 9, 9), VOID, dtype=torch.uint8)
    metrics = SegmentationMetrics(3)
    metrics.update(torch.zeros(1, 9, 9, dtype=torch.long), void)
    assert all(np.isnan(value).all() for value in arrays(metrics).values())
    predictions, labels = (torch.from_numpy(array) for array in maps((1, 9, 9), 3, seed=1))
    metrics.update(predictions, labels)
    assert metrics.compute()["mIoU"] == scores_from_counts(image_counts(predictions, labels, 3)[0].numpy())["mIoU"]


def test_one_class_is_always_right() -> None:
    metrics = SegmentationMetrics(1)
    metrics.update(torch.zeros(1, 7, 5, dtype=torch.long), torch.from_numpy(maps((1, 7, 5), 1, void=0.3)[1] * 0))
    assert [metrics.compute()[name].item() for name in SCORES] == [1.0] * 5
    assert metrics.compute()["per_class"].tolist() == [1.0]


@pytest.mark.parametrize(("prediction", "label"), [(0, 3), (0, 254), (0, -1), (3, 0), (-1, 0), (VOID, 0), (0, 300)])
def test_values_that_are_no_class_are_refused(prediction: int, label: int) -> None:
    """Unchecked, such a value would be counted for another class or another image, or as void."""
    metrics = SegmentationMetrics(3)
    predictions, labels = torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long)
    predictions[0, 0, 0], labels[0, 0, 0] = prediction, label
    metrics.update(predictions, labels)
    with pytest.raises(UserError, match="1 pixels"):
        metrics.compute()


@pytest.mark.parametrize("classes", [0, 256])
def test_number_of_classes_is_checked(classes: int) -> None:
    with pytest.raises(UserError, match=str(classes)):
        SegmentationMetrics(classes)


def test_largest_number_of_classes_works() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    counts = image_counts(values.clamp(max=254), values, 255)
    assert counts[0, :3].eq(1).all()
    assert counts.sum() == 6 * 255


def test_counts_beyond_float32_stay_exact() -> None:
    metrics = SegmentationMetrics(2)
    metrics.confusion += torch.tensor([[2**40 + 1, 0], [0, 1]])
    metrics.update(torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1, dtype=torch.long))
    assert metrics.confusion.tolist() == [[2**40 + 1, 0], [1, 1]]
    assert metrics.compute()["per_class"][1].item() == 0.5
    assert metrics.bfloat16().confusion.dtype == torch.int64


def test_scores_of_many_resampled_sets_at_once() -> None:
    predictions, labels = (torch.from_numpy(array) for array in maps((4, 30, 40), 5))
    counts = image_counts(predictions, labels, 5)
    draws = torch.tensor([[0, 0, 1, 2], [3, 3, 3, 3]])
    together = scores_from_counts(counts[draws].sum(1).numpy())
    for number, draw in enumerate(draws):
        alone = scores_from_counts(counts[draw].sum(0).numpy())
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][number], value, rtol=1e-12)


def test_rows_per_image_are_sorted_and_kept_once() -> None:
    predictions, labels = (torch.from_numpy(array) for array in maps((4, 30, 40), 5))
    metrics, once = SegmentationMetrics(5, keep_images=True), SegmentationMetrics(5)
    once.update(predictions, labels)
    order = torch.tensor([2, 0, 3, 1, 0, 2])
    for batch in order.split(4):
        metrics.update(predictions[batch], labels[batch], batch)
    scores = arrays(metrics)
    assert scores.pop("indices").tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(scores.pop("image_counts")[:, :6], image_counts(predictions, labels, 5).numpy())
    np.testing.assert_equal(scores, arrays(once))
    metrics.reset()
    metrics.update(predictions[:1], labels[:1], torch.tensor([7]))
    assert metrics.compute()["indices"].tolist() == [7]


def test_rows_need_indices() -> None:
    with pytest.raises(ValueError, match="indices"):
        SegmentationMetrics(2, keep_images=True).update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long())


@pytest.mark.parametrize("keep_images", [False, True])
def test_two_processes_give_the_scores_of_one(keep_images: bool) -> None:
    """The gathering is played by hand: the second's states are handed to the first in the order it asks for them."""
    predictions, labels = (torch.from_numpy(array) for array in maps((5, 30, 40), 5))
    shards = ([0, 2, 4], [1, 3, 0]) if keep_images else ([0, 2, 4], [1, 3])  # the sampler repeats image 0

    def gather(state: Tensor, group: Any = None) -> list[Tensor]:
        other = next(asked)
        return [state, torch.cat(other) if isinstance(other, list) else other]

    first, second, alone = (SegmentationMetrics(5, keep_images) for _ in range(3))
    first.dist_sync_fn, first.distributed_available_fn = gather, lambda: True
    for metrics, images in ((first, shards[0]), (second, shards[1]), (alone, range(5))):
        for image in images:
            metrics.update(predictions[[image]], labels[[image]], torch.tensor([image]))
    asked = iter([getattr(second, name) for name in second._reductions])
    np.testing.assert_equal(arrays(first), arrays(alone))
    assert first.compute()["pixel_acc"] != second.compute()["pixel_acc"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_counts_the_same(deterministic: None) -> None:
    predictions, labels = (torch.from_numpy(array) for array in maps((2, 61, 47), 7))
    on_gpu = image_counts(predictions.cuda(), labels.cuda(), 7)
    assert torch.equal(on_gpu.cpu(), image_counts(predictions, labels, 7))
