"""Blocks of images against closed forms, and which images the data modules take for frames of a sequence."""

from pathlib import Path

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length
from fake_runs import draw_counts, write_run

from segrefine.compare.resampling import Blocks, block_length, choose_blocks, neighbor_correlation
from segrefine.compare.statistics import Bootstrap, Settings, find_sequences
from segrefine.compare.variants import Variant
from segrefine.runs.read import read_run


def one_sequence(count: int) -> tuple[np.ndarray, ...]:
    return (np.arange(count),)


def autoregression(count: int, correlation: float, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=count)
    for index in range(1, count):
        drawn[index] = correlation * drawn[index - 1] + (1 - correlation**2) ** 0.5 * drawn[index]
    return drawn


@pytest.mark.parametrize("sizes", [(101,), (40, 30, 31), (1, 1, 2, 50, 7)])
def test_every_image_is_drawn_equally_often_and_all_resamples_are_as_large(sizes: tuple[int, ...]) -> None:
    ends = np.cumsum(sizes)
    sequences = tuple(np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True))
    drawn = Blocks(sequences, 8).draw(20_000, np.random.default_rng(0))
    assert drawn.shape == (20_000, sum(sizes))
    assert (drawn.sum(1) == sum(sizes)).all()
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.09)


def test_neighbors_are_drawn_together_around_the_end_but_not_across_sequences() -> None:
    order = np.random.default_rng(1).permutation(20)
    drawn = Blocks((order[:10], order[10:]), 5).draw(4_000, np.random.default_rng(0)).astype(float)
    near = np.corrcoef(drawn[:, order].T)
    assert near[3, 4] > 0.5
    assert near[0, 9] > 0.5
    assert near[9, 10] < 0.1


def test_the_variance_of_a_mean_is_that_of_its_blocks() -> None:
    """Of the circular block bootstrap (Politis and Romano 1992): the mean square of the sums of all blocks."""
    series, length = autoregression(100, 0.7), 10
    drawn = Blocks(one_sequence(100), length).draw(20_000, np.random.default_rng(0))
    around = np.convolve(np.tile(series - series.mean(), 2), np.ones(length), "valid")[:100]
    assert (drawn @ series / 100).var() == pytest.approx((around**2).mean() / 100 / length, rel=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.85])
def test_the_variance_of_the_mean_of_an_autoregression_is_found(correlation: float) -> None:
    """Its closed form is the variance times (1 + c) / (1 - c) / N, but for terms in 1 / N^2."""
    found = []
    for seed in range(60):
        series = autoregression(400, correlation, seed)
        blocks = choose_blocks(one_sequence(400), series[None])
        around = np.convolve(np.tile(series - series.mean(), 2), np.ones(blocks.length), "valid")[:400]
        found.append((around**2).mean() / 400 / blocks.length * blocks.inflation)
    assert np.mean(found) == pytest.approx((1 + correlation) / (1 - correlation) / 400, rel=0.15)


def test_images_are_worth_as_many_as_the_variance_of_their_mean_says() -> None:
    blocks = Blocks(one_sequence(5), 3, 0.5)
    matrix = 0.5 ** np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert blocks.effective == pytest.approx(25 / matrix.sum())
    assert Blocks(one_sequence(5)).effective == 5


def test_independent_images_have_about_as_many_degrees_of_freedom() -> None:
    assert Blocks(tuple(np.arange(100)[:, None])).freedom == pytest.approx(99, rel=0.25)
    assert Blocks(one_sequence(100), 10, 0.85).freedom < Blocks(one_sequence(100), 10, 0.1).freedom


def test_the_length_is_that_of_the_optimum_for_an_autoregression() -> None:
    """Politis and White 2004, section 3: of the sums over all lags of |k| c^|k| and of c^|k|."""
    count, c = 4_000, 0.6
    slope, spectrum = 2 * c / (1 - c) ** 2, (1 + c) / (1 - c)
    best = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * count ** (1 / 3)
    lengths = [block_length(autoregression(count, c, seed), one_sequence(count)) for seed in range(10)]
    assert np.mean(lengths) == pytest.approx(best, rel=0.25)


def test_the_length_is_that_of_the_package_arch() -> None:
    """To rounding for independent images. For others on average: arch takes the first lag that is negligible for the
    last one that is not, and blocks a little longer."""

    def lengths(count: int, correlation: float, seed: int) -> tuple[float, float]:
        series = autoregression(count, correlation, seed)
        theirs = optimal_block_length(series)["circular"].iloc[0]
        return block_length(series - series.mean(), one_sequence(count)), float(theirs)

    for seed in range(4):
        ours, theirs = lengths(101, 0.0, seed)
        assert ours == pytest.approx(max(theirs, 1.0), rel=1e-9)
    ours, theirs = np.mean([lengths(2_000, 0.85, seed) for seed in range(10)], axis=0)
    assert ours == pytest.approx(theirs, rel=0.04)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9])
def test_a_few_frames_have_a_length_too(count: int) -> None:
    series = np.random.default_rng(count).normal(size=count)
    assert 1 <= block_length(series - series.mean(), one_sequence(count)) <= count


def test_neighbors_are_those_of_a_sequence() -> None:
    series = np.array([1.0, -1.0] * 50)
    assert neighbor_correlation(series, one_sequence(100)) == 0  # none below zero
    halves = (np.arange(0, 100, 2), np.arange(1, 100, 2))
    assert neighbor_correlation(series, halves) == 0.97


def test_one_length_is_taken_as_given() -> None:
    series = autoregression(100, 0.8)[None]
    assert choose_blocks(one_sequence(100), series, 7).length == 7
    single = choose_blocks(one_sequence(100), series, 1)
    assert (single.length, single.inflation, single.effective) == (1, 1, 100)
    assert choose_blocks(tuple(np.arange(100)[:, None]), series).length == 1
    assert choose_blocks(one_sequence(100), series).length > 3


def test_frames_of_a_sequence_widen_the_interval(tmp_path: Path) -> None:
    """Networks whose share of right pixels rises and falls slowly from image to image."""
    runs = []
    for model, right in {"fcn8s": 0.82, "fcn16s": 0.8}.items():
        counts = draw_counts(0, 100, 0.8)
        wave = right + 0.05 * np.sin(np.arange(100) / 8 + (model == "fcn8s")) + np.random.default_rng(3).normal(0, 0.01)
        counts[:, 0] = (counts[:, 1] * wave[:, None]).astype(int)
        counts[:, 2] = counts[:, 0] + np.roll(counts[:, 1] - counts[:, 0], 1, axis=1)
        options = {"datamodule__kind": "folder", "datamodule__sequence_pattern": r"(image)_(\d+)"}
        runs.append(read_run(write_run(tmp_path / model, counts, model, **options)))
    variants = [Variant(run.summary.model, (run,)) for run in runs]
    assert [len(each) for each in find_sequences(runs[0])] == [100]
    blocked = Bootstrap(variants, settings=Settings(2_000))
    single = Bootstrap(variants, settings=Settings(2_000, block_length=1))
    assert blocked.blocks.length > 5
    assert blocked.blocks.effective < 20
    wide, narrow = (each.difference(*variants) for each in (blocked, single))
    assert wide.estimate == narrow.estimate
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_images_of_a_data_module_without_frames_are_independent(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", draw_counts(0, 12, 0.8), datamodule__kind="somebodys_own"))
    assert [list(each) for each in find_sequences(run)] == [[index] for index in range(12)]
