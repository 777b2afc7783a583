"""Intervals and verdicts on cases whose answer is known, scores against formulas written out, Holm against a table."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_runs import draw_counts, fake_variants, write_run

from segrefine.compare.scores import check_metric, score
from segrefine.compare.statistics import Bootstrap, Difference, correct
from segrefine.compare.variants import Variant
from segrefine.core.errors import UserError
from segrefine.metrics.segmentation import IMAGE_COUNTS
from segrefine.runs.read import read_run

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def difference(p: float, low: float = 0.01, high: float = 0.02) -> Difference:
    return Difference("one", "other", "mIoU", (low + high) / 2, low, high, p, p, (3, 3))


def test_the_score_of_a_resample_is_that_of_its_images(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", draw_counts(0, 7, 0.8)))
    chosen = [0, 0, 3, 6, 6, 6, 2]
    weights = np.bincount(chosen, minlength=7)[None].astype(float)
    counts = run.counts[chosen].sum(0).astype(float)
    named = dict(zip(IMAGE_COUNTS, counts, strict=True))

    def iou(prefix: str) -> np.ndarray:
        hits, truth, guess = (named[f"{prefix}{name}"] for name in ("intersection", "truth", "prediction"))
        return hits / (truth + guess - hits)

    expected = {
        "mIoU": iou("").mean(),
        "boundary_IoU": iou("boundary_").mean(),
        "pixel_acc": named["intersection"].sum() / named["truth"].sum(),
        "trimap_4": iou("trimap_4_").mean(),
        "size_16_32": iou("size_16_32_").mean(),
        "IoU:road": iou("")[1],
        "trimap_2 - mIoU": iou("trimap_2_").mean() - iou("").mean(),
    }
    for metric, value in expected.items():
        assert score(run, metric, weights) == pytest.approx([value], rel=1e-12), metric
    assert float(score(run, "mIoU")) == pytest.approx(run.summary.mIoU, rel=1e-12)


def test_a_class_that_no_image_holds_is_left_out_of_the_mean(tmp_path: Path) -> None:
    counts = draw_counts(0, 5, 0.8)
    counts[:, :, 2] = 0
    run = read_run(write_run(tmp_path / "run", counts))
    assert float(score(run, "mIoU")) == pytest.approx((score(run, "IoU:sky") + score(run, "IoU:road")) / 2)
    assert np.isnan(score(run, "IoU:car"))


@pytest.mark.parametrize("metric", ["mIou", "IoU:cat", "trimap_3", "mIoU - size_0"])
def test_an_unknown_score_is_refused_by_name(metric: str, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", draw_counts(0, 3, 0.8)))
    with pytest.raises(UserError, match=r"has no (such )?score .*(Did you mean|Known)"):
        check_metric(metric, run)


@pytest.mark.parametrize("seeds", [1, 3])
def test_two_identical_models_show_no_difference(seeds: int, tmp_path: Path) -> None:
    one, _ = fake_variants(tmp_path, {"fcn8s": 0.8, "fcn16s": 0.8}, seeds)
    found = Bootstrap(2_000).difference(one, Variant("again", one.runs), "mIoU")
    assert found.estimate == 0
    assert found.low <= 0 <= found.high
    assert found.p == 1
    assert found.verdict.startswith("no difference shown")
    assert found.verdict.endswith(", of one seed") == (seeds == 1)


@pytest.mark.parametrize(
    ("right", "margin", "shown", "words"),
    [
        (0.80, 0.05, True, "a loss of more than 5 points is excluded ("),
        (0.80, 0.001, False, "a loss of more than 0.1 points is neither shown nor excluded ("),
        (0.60, 0.02, True, "a loss of more than 2 points is shown ("),
    ],
)
def test_a_margin_is_what_the_p_value_is_of(
    right: float, margin: float, shown: bool, words: str, tmp_path: Path
) -> None:
    one, other = fake_variants(tmp_path, {"fcn8s": right, "fcn16s": 0.8})
    bootstrap = Bootstrap(2_000)
    found, plain = bootstrap.difference(one, other, "mIoU", margin), bootstrap.difference(one, other, "mIoU")
    assert (found.low, found.high, found.estimate) == (plain.low, plain.high, plain.estimate)
    assert bool(found.p < 0.05) == bool(found.shown) == shown
    assert found.verdict.startswith(words)
    assert not replace(found, adjusted_p=0.2).shown


def test_two_models_that_differ_by_chance_alone_show_no_difference(tmp_path: Path) -> None:
    one, other = fake_variants(tmp_path, {"fcn8s": 0.8, "fcn16s": 0.8})
    found = Bootstrap(2_000).difference(one, other, "mIoU")
    assert found.estimate != 0
    assert found.low < 0 < found.high
    assert not found.shown


def test_a_gain_of_two_points_is_found(tmp_path: Path) -> None:
    """Although the images vary by far more: they are paired."""
    better, worse = fake_variants(tmp_path, {"fcn8s": 0.815, "fcn16s": 0.8})
    bootstrap = Bootstrap(2_000)
    found = bootstrap.difference(better, worse, "mIoU")
    assert found.estimate == pytest.approx(0.02, abs=0.007)
    assert 0 < found.low < found.estimate < found.high
    assert found.shown
    assert found.verdict == f"better by {100 * found.low:.1f} to {100 * found.high:.1f} points"
    back = bootstrap.difference(worse, better, "mIoU")
    assert back.verdict.startswith("worse by ")
    assert back.estimate == -found.estimate
    low, high = bootstrap.interval(better, "mIoU")
    assert high - low > 3 * (found.high - found.low)


def test_seeds_that_scatter_widen_the_interval(tmp_path: Path) -> None:
    still = fake_variants(tmp_path / "still", {"fcn8s": 0.83, "fcn16s": 0.8})
    folders = [
        write_run(
            tmp_path / f"{model}{seed}", draw_counts(10 * place + seed, 80, right + 0.03 * (seed - 1)), model, seed
        )
        for place, (model, right) in enumerate({"fcn8s": 0.83, "fcn16s": 0.8}.items())
        for seed in range(3)
    ]
    runs = [read_run(folder) for folder in folders]
    wild = [Variant("one", tuple(runs[:3])), Variant("other", tuple(runs[3:]))]
    bootstrap = Bootstrap(2_000)
    narrow, wide = (bootstrap.difference(*pair, "mIoU") for pair in (still, wild))
    assert narrow.shown
    assert not wide.shown
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize("holding", [1, 3])
def test_a_class_in_few_images_is_compared_over_the_resamples_that_hold_it(holding: int, tmp_path: Path) -> None:
    """Of 1,000 pixels of a car in each of these images the networks find those planted, and no others elsewhere."""
    found = {"fcn8s": (600, 610, 590), "fcn16s": (500, 510, 490)}
    counts = draw_counts(0, 50, 0.8)
    variants = []
    for model, planted in found.items():
        runs = []
        for seed, hits in enumerate(planted):
            counts[:, :, 2] = 0
            counts[:holding, :3, 2] = (hits, 1_000, hits)
            runs.append(read_run(write_run(tmp_path / f"{model}{seed}", counts, model, seed)))
        variants.append(Variant(model, tuple(runs)))
    difference = Bootstrap(2_000).difference(variants[0], variants[1], "IoU:car")
    # All images are alike, so that the seeds alone vary: Student's t of 4 degrees of freedom.
    half = 2.776 * (2 * 0.01**2 / 3) ** 0.5
    assert difference.estimate == pytest.approx(0.1)
    assert (difference.low, difference.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.005)
    assert difference.images == holding
    assert difference.shown
    assert difference.verdict.startswith("better by ")
    assert difference.verdict.endswith(f" points, on {holding} image{'s' * (holding > 1)} alone")
    assert Bootstrap(2_000).difference(*variants, "IoU:road").images is None


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.filterwarnings("error")
def test_a_score_of_nothing_is_not_defined(seeds: int, tmp_path: Path) -> None:
    counts = draw_counts(0, 6, 0.8)
    counts[:, :, 2] = 0
    counts[:, 3:] = 0
    runs = [read_run(write_run(tmp_path / str(seed), counts, seed=seed)) for seed in range(seeds)]
    one, other, bootstrap = Variant("one", tuple(runs)), Variant("other", tuple(runs)), Bootstrap(200)
    absent, empty = (bootstrap.difference(one, other, metric) for metric in ("IoU:car", "boundary_IoU"))
    assert absent.verdict == "not defined: the class car never occurs in these images"
    assert empty.verdict == "not defined: these images hold nothing to score for boundary_IoU"
    assert not absent.shown
    assert correct([absent, bootstrap.difference(one, other, "mIoU")])[0].adjusted_p == 1
    assert np.isnan(bootstrap.interval(one, "IoU:car")).all()
    assert np.isfinite(bootstrap.difference(one, other, "mIoU").low)


def test_the_same_networks_scored_in_two_ways_are_compared_one_by_one(tmp_path: Path) -> None:
    """Seeds scatter by ten points, each gains one."""
    runs = []
    for place, gain in enumerate((0.01, 0.0)):
        for seed in range(3):
            counts = draw_counts(seed, 80, 0.75 + 0.05 * seed + gain)
            runs.append(read_run(write_run(tmp_path / f"{place}_{seed}", counts, seed=seed)))
    named = [replace(run, summary=replace(run.summary, weights=f"{run.seed}")) for run in runs]
    bootstrap = Bootstrap(2_000)
    others, same = (
        bootstrap.difference(Variant("one", tuple(of[:3])), Variant("other", tuple(of[3:])), "mIoU")
        for of in (runs, named)
    )
    assert same.estimate == others.estimate
    assert not others.shown
    assert same.shown
    assert same.high - same.low < 0.2 * (others.high - others.low)


def test_the_same_comparison_gives_the_same_numbers(tmp_path: Path) -> None:
    pair = fake_variants(tmp_path, {"fcn8s": 0.81, "fcn16s": 0.8})
    assert Bootstrap(500).difference(*pair, "mIoU") == Bootstrap(500).difference(*pair, "mIoU")


def test_resamples_drawn_in_blocks_are_as_many_as_asked(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", draw_counts(0, 10, 0.8)))
    assert Bootstrap(2_500).scores(run, "mIoU").shape == (2_500,)


@pytest.mark.parametrize(
    ("images", "seeds", "spread", "same_networks"),
    [
        *((60, 3, 0.1, False), (60, 1, 0.0, False), (100, 3, 0.1, True)),
        pytest.param(100, 3, 0.3, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_intervals_hold_the_truth_as_often_as_they_say(
    images: int, seeds: int, spread: float, same_networks: bool
) -> None:
    from interval_coverage import coverage

    assert 0.93 <= coverage(images, seeds, spread, 300, resamples=400, same_networks=same_networks) <= 0.97


def test_holm_corrects_as_worked_out_by_hand() -> None:
    """Sorted p-values times 4, 3, 2, 1, never falling, at most 1."""
    found = correct([difference(p) for p in (0.01, 0.04, 0.03, 0.005)])
    assert [entry.adjusted_p for entry in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [entry.shown for entry in found] == [True, False, False, True]
    assert correct([difference(0.7), difference(0.6)])[0].adjusted_p == 1
    assert correct([]) == []


def test_a_difference_lost_by_correction_is_not_claimed() -> None:
    lost = replace(difference(0.03), adjusted_p=0.06)
    assert lost.verdict == "no difference shown after correction (+1.0 to +2.0 points)"
    assert difference(0.03, -0.034, -0.021).verdict == "worse by 2.1 to 3.4 points"
