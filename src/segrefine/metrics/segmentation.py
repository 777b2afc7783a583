"""Count predicted label maps against the truth, image by image and over a set.

Shapes: B images, K classes, H W size.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.metrics.counting import count_per_image, count_within, near_others
from segrefine.metrics.regions import count_regions
from segrefine.metrics.scores import scores_from_counts

BOUNDARY_WIDTH = 0.02
"""Width of the boundary band as a fraction of the image diagonal: `dilation_ratio` in boundary_utils.py of the release
(boundary-iou-api) of Cheng et al., "Boundary IoU", CVPR 2021."""


def image_counts(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return `COUNTS` for each image, (B, 6, K) int64, from maps (B, H, W) of 0..K-1, in the labels VOID, too."""
    predictions, labels = mark_void(predictions, labels, num_classes)
    regions = region_counts(image_confusions(predictions, labels, num_classes))
    return torch.cat([regions, boundary_counts(predictions, labels, num_classes)], dim=1)


def mark_void(predictions: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return both maps (B, H, W) as uint8, with VOID where the truth is void or where either value is no class."""
    known = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    return predictions.where(known, VOID).to(torch.uint8), labels.where(known, VOID).to(torch.uint8)


def image_confusions(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrix of each image, (B, K, K) int64, rows truth and columns prediction.

    The maps are those of `mark_void`.
    """
    cells = labels.long() * num_classes + predictions
    return count_per_image(cells, labels != VOID, num_classes**2).unflatten(1, (num_classes, num_classes))


def region_counts(confusions: Tensor) -> Tensor:
    """Return the first three of `COUNTS`, (B, 3, K) int64, from confusion matrices (B, K, K)."""
    return torch.stack([confusions.diagonal(dim1=-2, dim2=-1), confusions.sum(-1), confusions.sum(-2)], dim=1)


def boundary_counts(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the last three of `COUNTS`, (B, 3, K) int64, for maps from `mark_void`.

    The band of a class is what d erosions with a 3x3 square remove from its mask (d: `BOUNDARY_WIDTH`, at least 1
    pixel), as in boundary-iou-api. So a pixel is in the band of its own class if and only if its window of side 2d+1
    holds another value, and one pass serves all classes. Pixels outside the image and void count as another value.
    """
    height, width = labels.shape[-2:]
    distance = max(1, round(BOUNDARY_WIDTH * math.hypot(height, width)))
    in_prediction, in_truth = near_others(torch.stack([predictions, labels]), distance, beyond=VOID) & (labels != VOID)
    return count_within(predictions, labels, in_prediction, in_truth, num_classes)


class SegmentationMetrics(Metric):
    """Scores of a set for `num_classes` classes, as `scores_from_counts` defines them.

    With `keep_images` it also keeps the counts of each image, once for each index that `update` receives: a distributed
    sampler repeats images to give every process the same number. The scores are then those of these rows. (`confusion`
    has no rows for single images, so repeated images stay in it.)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    confusion: Tensor
    boundary: Tensor
    unknown: Tensor
    indices: list[Tensor]
    rows: list[Tensor]

    def __init__(self, num_classes: int, keep_images: bool = False) -> None:
        """Create empty counts; UserError if `num_classes` is not in 1..255, the classes that uint8 has besides VOID."""
        super().__init__()
        if not 1 <= num_classes <= VOID:
            raise UserError(f"The number of classes must be between 1 and {VOID}, got {num_classes}.")
        self.num_classes, self.keep_images = num_classes, keep_images
        counts = {"confusion": (num_classes, num_classes), "boundary": (3, num_classes), "unknown": ()}
        for name, shape in counts.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        if keep_images:
            self.add_state("indices", [], dist_reduce_fx="cat")
            self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        """Count predictions against labels, (B, H, W). `keep_images` needs the `indices` (B,) of the images."""
        maps = mark_void(predictions, labels, self.num_classes)
        confusions, boundary = (count(*maps, self.num_classes) for count in (image_confusions, boundary_counts))
        self.confusion += confusions.sum(0)
        self.boundary += boundary.sum(0)
        self.unknown += ((labels != VOID) & (maps[1] == VOID)).sum()
        if self.keep_images:
            if indices is None:
                raise ValueError("keep_images needs the indices of the images in the data set.")
            self.indices.append(indices.to(labels.device, torch.int64))
            regions = count_regions(*maps, self.num_classes)
            self.rows.append(torch.cat([region_counts(confusions), boundary, regions], dim=1))

    def compute(self) -> dict[str, Any]:
        """Return the scores as float64 scalars, and `per_class` (K,).

        With `keep_images` there are also `indices` (N,), sorted, and `image_counts` (N, len(IMAGE_COUNTS), K) int64.
        All but the scalars are numpy arrays, since torchmetrics would drop the dimensions of a tensor with one element.

        Raises:
            UserError: a value is neither a class nor VOID. It is raised here and not in `update`, so that all processes
                of a distributed run learn of it and none waits for another.
        """
        if self.unknown > 0:
            raise UserError(
                f"{int(self.unknown)} pixels have a label or prediction that is neither a class "
                f"(0..{self.num_classes - 1}) nor void ({VOID}): check the data set's classes."
            )
        if not self.keep_images:
            return _scores(torch.cat([region_counts(self.confusion[None])[0], self.boundary]).numpy(force=True))
        indices, order = dim_zero_cat(self.indices).sort(stable=True)
        first = torch.ones_like(indices, dtype=torch.bool)
        first[1:] = indices[1:] != indices[:-1]
        rows = dim_zero_cat(self.rows)[order][first].numpy(force=True)
        return _scores(rows.sum(0)) | {"indices": indices[first].numpy(force=True), "image_counts": rows}


def _scores(counts: np.ndarray) -> dict[str, Any]:
    scores = scores_from_counts(counts).items()
    return {name: value if value.ndim else torch.tensor(value, dtype=torch.float64) for name, value in scores}
