"""The expected calibration error against lines written out, and against torchmetrics."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from segrefine.core.labels import VOID
from segrefine.metrics.calibration import BINS, Calibration


def written_out(confidences: np.ndarray, right: np.ndarray) -> float:
    """Guo et al., ICML 2017, equation 3."""
    error = 0.0
    for number in range(1, BINS + 1):
        inside = ((number - 1) / BINS < confidences) & (confidences <= number / BINS)
        if inside.any():
            error += inside.sum() / len(confidences) * abs(right[inside].mean() - confidences[inside].mean())
    return error


def scene(classes: int, size: tuple[int, ...], void: float, spread: float) -> tuple[Tensor, Tensor]:
    """Class probabilities (B, K, H, W) and labels, of which some are the best class."""
    likely = (spread * torch.randn(size[0], classes, *size[1:])).softmax(1)
    labels = torch.where(torch.rand(size) < 0.4, likely.argmax(1), torch.randint(classes, size))
    return likely, labels.masked_fill(torch.rand(size) < void, VOID).to(torch.uint8)


@pytest.mark.parametrize(
    ("classes", "size", "void", "spread"),
    [(5, (2, 13, 17), 0.3, 1.5), (2, (1, 1, 1), 0.0, 1.0), (11, (3, 8, 9), 0.9, 3.0), (21, (2, 7, 5), 0.0, 0.1)],
)
def test_the_error_is_that_of_lines_written_out_and_of_torchmetrics(
    classes: int, size: tuple[int, ...], void: float, spread: float
) -> None:
    """Image by image, as in an evaluation."""
    likely, labels = scene(classes, size, void, spread)
    metric = Calibration()
    for image in range(len(likely)):
        confidences, predictions = likely[image : image + 1].max(1)
        metric.update(confidences, predictions.to(torch.uint8), labels[image : image + 1])
    found = metric.reliability()
    valid = labels != VOID
    confidences, predictions = (each[valid].double().numpy() for each in likely.max(1))
    assert found.error == pytest.approx(written_out(confidences, predictions == labels[valid].numpy()), abs=1e-6)
    theirs = multiclass_calibration_error(likely, labels.long(), classes, n_bins=BINS, ignore_index=VOID)
    assert found.error == pytest.approx(theirs.item(), abs=1e-6)
    assert found.pixels.sum() == valid.sum()


def test_bins_hold_their_upper_limits_and_nothing_else_is_lost() -> None:
    """Confidences of 0 and 1, one class, and a network that computes no numbers."""
    metric = Calibration()
    confidences = torch.tensor([[[0.0, 1 / 15, 0.0667, 1.0, float("nan")]]])
    metric.update(confidences, torch.zeros(1, 1, 5), torch.tensor([[[0, 1, 0, 0, 1]]]))
    found = metric.reliability()
    assert found.pixels.tolist() == [3, 1, *[0] * 12, 1]
    assert found.accuracy[[0, 1, 14]] == pytest.approx([1 / 3, 1, 1])
    assert found.confidence[[1, 14]] == pytest.approx([0.0667, 1])
    assert np.isnan(found.accuracy[2:14]).all()
    metric.reset()
    metric.update(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert metric.reliability().error == 0


def test_all_void_has_no_error_and_memory_does_not_grow() -> None:
    metric = Calibration()
    for _ in range(3):
        metric.update(torch.rand(2, 4, 5), torch.zeros(2, 4, 5), torch.full((2, 4, 5), VOID))
    assert np.isnan(metric.reliability().error)
    assert sum(getattr(metric, name).numel() for name in metric._defaults) == 3 * BINS
