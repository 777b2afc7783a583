"""Counts near boundaries and by size, against slow references pixel by pixel and cases drawn by hand."""

import numpy as np
import pytest
import torch

from segrefine.core.labels import VOID
from segrefine.metrics.regions import count_regions, size_counts
from segrefine.metrics.scores import COUNTS, IMAGE_COUNTS, REGIONS, SIZES, TRIMAP_WIDTHS
from segrefine.metrics.segmentation import mark_void


def drawn(*rows: str) -> np.ndarray:
    """A label map from text: digits are classes, a dot is class 0, x is void."""
    return np.array(
        [[{".": 0, "x": VOID}.get(sign) if sign in ".x" else int(sign) for sign in row] for row in rows], np.uint8
    )


def maps(seed: int, size: tuple[int, int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A blocky truth with void, and a prediction that is wrong in places."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (2, size[0] // 5 + 1, size[1] // 5 + 1))
    truth = blocks.repeat(5, 1).repeat(5, 2)[:, : size[0], : size[1]].astype(np.uint8)
    truth[rng.random(truth.shape) < 0.02] = VOID
    guess = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, classes, truth.shape), truth % VOID % classes)
    marked = mark_void(torch.from_numpy(guess), torch.from_numpy(truth), classes)
    return marked[0], marked[1]


def in_trimap(truth: np.ndarray, row: int, column: int, width: int) -> bool:
    square = truth[max(row - width, 0) : row + width + 1, max(column - width, 0) : column + width + 1]
    return bool((square != truth[row, column]).any())


@pytest.mark.parametrize(("seed", "size"), [(0, (23, 17)), (1, (1, 40)), (2, (33, 2)), (3, (12, 12))])
def test_trimaps_are_those_of_a_pixel_by_pixel_search(seed: int, size: tuple[int, int]) -> None:
    predictions, labels = maps(seed, size, 4)
    counts = count_regions(predictions, labels, 4)
    for image in range(2):
        guess, truth = predictions[image].numpy(), labels[image].numpy()
        for place, width in enumerate(TRIMAP_WIDTHS):
            expected = np.zeros((3, 4), int)
            for row, column in np.argwhere(truth != VOID):
                if in_trimap(truth, row, column, width):
                    expected[0, truth[row, column]] += truth[row, column] == guess[row, column]
                    expected[1, truth[row, column]] += 1
                    expected[2, guess[row, column]] += 1
            np.testing.assert_array_equal(counts[image, 3 * place : 3 * place + 3], expected)


def test_the_edge_of_the_image_is_no_boundary() -> None:
    labels = torch.full((1, 9, 9), 2, dtype=torch.uint8)
    trimaps = count_regions(labels, labels, 3)[:, : 3 * len(TRIMAP_WIDTHS)]
    assert trimaps.sum() == 0


def test_names_stand_for_the_rows() -> None:
    predictions, labels = maps(0, (20, 20), 3)
    assert count_regions(predictions, labels, 3).shape == (2, 3 * len(REGIONS), 3)
    assert len(IMAGE_COUNTS) == len(COUNTS) + 3 * len(REGIONS)
    assert IMAGE_COUNTS[6:9] == ("trimap_1_intersection", "trimap_1_truth", "trimap_1_prediction")
    assert IMAGE_COUNTS[-1] == "size_64_up_prediction"


def test_regions_are_told_apart_by_the_root_of_their_area() -> None:
    truth = np.zeros((70, 150), np.uint8)
    truth[:15, :15] = 1  # side 15
    truth[20:36, :16] = 1  # side 16: the next size
    truth[:64, 40:104] = 1  # side 64: the last
    truth[0, 110:142] = 1  # a line of area 32 is small, however long
    counts = size_counts(truth, truth, 2)
    expected = dict(zip(SIZES, (15**2 + 32, 16**2, 0, 64**2), strict=True))
    for row in range(3):
        assert dict(zip(SIZES, counts[:, row, 1].tolist(), strict=True)) == expected


def test_stray_pixels_count_at_the_region_that_the_guess_covers_most_of() -> None:
    truth = np.zeros((40, 80), np.uint8)
    truth[0:20, 0:20] = 1  # side 20
    truth[0:5, 40:45] = 1  # side 5
    guess = np.zeros_like(truth)
    guess[0:10, 0:45] = 1  # one guess over both and between them: 200 of the large, 25 of the small, 225 stray
    guess[30:40, 60:80] = 1  # touches nothing: counts at no size
    counts = size_counts(guess, truth, 2)[:, :, 1]
    assert counts.tolist() == [[25, 25, 25], [200, 400, 425], [0, 0, 0], [0, 0, 0]]


def test_void_belongs_to_no_guess() -> None:
    truth = drawn("11x..", "11x..", ".....")
    guess = drawn("11111", "11111", ".....")
    guess = mark_void(torch.from_numpy(guess)[None], torch.from_numpy(truth)[None], 2)[0][0].numpy()
    counts = size_counts(guess, truth, 2)[0, :, 1]
    assert counts.tolist() == [4, 4, 4]  # what lies beyond the void is another guess, and touches nothing


@pytest.mark.parametrize("seed", range(5))
def test_hits_and_truth_of_all_sizes_are_those_of_the_image(seed: int) -> None:
    predictions, labels = maps(seed, (70, 90), 3)
    counts = count_regions(predictions, labels, 3).unflatten(1, (-1, 3))[:, len(TRIMAP_WIDTHS) :].sum(1)
    for image in range(2):
        for number in range(3):
            truth, guess = (tensor[image] == number for tensor in (labels, predictions))
            assert counts[image, :2, number].tolist() == [(truth & guess).sum(), truth.sum()]
            assert counts[image, 2, number] <= guess.sum()


def test_a_batch_of_no_images_has_no_counts() -> None:
    nothing = torch.empty(0, 8, 8, dtype=torch.uint8)
    assert count_regions(nothing, nothing, 3).shape == (0, 3 * len(REGIONS), 3)


def test_an_image_of_nothing_but_void_has_no_counts() -> None:
    void = torch.full((1, 8, 8), VOID, dtype=torch.uint8)
    assert count_regions(void, void, 3).sum() == 0
