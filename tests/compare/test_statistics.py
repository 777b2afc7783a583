"""Intervals and verdicts on cases whose answer is known, scores against formulas written out, max-t against tables."""

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from fake_runs import draw_counts, fake_variants, still_images, write_run
from scipy import stats
from statsmodels.stats.multicomp import pairwise_tukeyhsd

from segrefine.compare.contrast import Contrast, Sample, find_critical
from segrefine.compare.difference import Difference
from segrefine.compare.resampling import Blocks
from segrefine.compare.scores import check_metric, image_scores, images_with, score, scores, worst_mean
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import Variant
from segrefine.core.errors import UserError
from segrefine.metrics.scores import IMAGE_COUNTS
from segrefine.runs.read import read_run

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

QUICK = Settings(2_000)


def difference(low: float, high: float) -> Difference:
    return Difference("one", "other", "mIoU", (low + high) / 2, low, high, 0.03, 1.0, (3, 3))


def compared(one: Variant, other: Variant, metric: str = "mIoU", margin: float = 0.0) -> Difference:
    return Bootstrap([one, other], metric, QUICK).difference(one, other, metric, margin)


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
    hits, truth, guess = np.moveaxis(run.counts[chosen, :3].astype(float), 1, 0)
    each = (hits / (truth + guess - hits)).mean(1)  # the fakes hold every class
    expected |= {"image_mIoU": each.mean(), "worst_10": each.min()}  # 0.7 images of 7
    for metric, value in expected.items():
        assert scores([run], metric, weights) == pytest.approx(np.array([[value]]), rel=1e-6), metric
    assert score(run, "mIoU") == pytest.approx(run.summary.mIoU, rel=1e-12)


def test_the_worst_tenth_counts_the_last_image_in_part() -> None:
    values = np.array([0.3, 0.1, np.nan, 0.2])
    assert worst_mean(values, 0.5) == pytest.approx((0.1 + 0.2 / 2) / 1.5)
    assert worst_mean(values, 1.0) == pytest.approx(0.2)
    weights = np.array([[1, 1, 1, 1], [0, 0, 5, 4], [4, 1, 0, 0], [0, 0, 1, 0]])
    expected = [(0.1 + 0.2 / 2) / 1.5, 0.2, (0.1 + 1.5 * 0.3) / 2.5, np.nan]
    np.testing.assert_allclose(worst_mean(values, 0.5, weights), expected)
    assert np.isnan(worst_mean(values[2:3], 0.5))


def test_an_image_counts_the_classes_of_its_label_alone(tmp_path: Path) -> None:
    counts = draw_counts(0, 2, 0.8)
    counts[0, :3, 2] = 0, 0, 50  # predicted, but not there
    hits, truth, guess = counts[0, :3].astype(float)
    run = read_run(write_run(tmp_path / "run", counts))
    assert image_scores(run)[0] == pytest.approx((hits / (truth + guess - hits))[:2].mean())


def test_a_class_that_no_image_holds_is_left_out_of_the_mean(tmp_path: Path) -> None:
    counts = draw_counts(0, 5, 0.8)
    counts[:, :, 2] = 0
    run = read_run(write_run(tmp_path / "run", counts))
    assert score(run, "mIoU") == pytest.approx((score(run, "IoU:sky") + score(run, "IoU:road")) / 2)
    assert np.isnan(score(run, "IoU:car"))


@pytest.mark.parametrize("metric", ["mIou", "IoU:cat", "trimap_3", "mIoU - size_0"])
def test_an_unknown_score_is_refused_by_name(metric: str, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", draw_counts(0, 3, 0.8)))
    with pytest.raises(UserError, match=r"has no (such )?score .*(Did you mean|Known)"):
        check_metric(metric, run)


@pytest.mark.parametrize("seeds", [1, 3])
def test_two_identical_models_are_practically_equal(seeds: int, tmp_path: Path) -> None:
    one, _ = fake_variants(tmp_path, {"fcn8s": 0.8, "fcn16s": 0.8}, seeds)
    found = compared(one, Variant("again", one.runs))
    assert found.estimate == 0
    assert found.low <= 0 <= found.high
    assert found.p == 1
    assert found.above == 0.5
    assert found.verdict.startswith("practically equal (")
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
    found, plain = compared(one, other, margin=margin), compared(one, other)
    assert (found.low, found.high, found.estimate) == (plain.low, plain.high, plain.estimate)
    assert bool(found.p < 0.05) == bool(found.shown) == shown
    assert found.verdict.startswith(words)


def test_two_models_that_differ_by_chance_alone_are_not_told_apart(tmp_path: Path) -> None:
    found = compared(*fake_variants(tmp_path, {"fcn8s": 0.8, "fcn16s": 0.8}))
    assert found.estimate != 0
    assert found.low < 0 < found.high
    assert not found.shown


def test_a_gain_of_two_points_is_found(tmp_path: Path) -> None:
    """Although the images vary by far more: they are paired."""
    better, worse = fake_variants(tmp_path, {"fcn8s": 0.815, "fcn16s": 0.8})
    bootstrap = Bootstrap([better, worse], settings=QUICK)
    found = bootstrap.difference(better, worse)
    assert found.estimate == pytest.approx(0.02, abs=0.007)
    assert 0 < found.low < found.estimate < found.high
    assert found.shown
    assert found.above == 1
    assert found.verdict == f"better by {100 * found.low:.1f} to {100 * found.high:.1f} points"
    back = bootstrap.difference(worse, better)
    assert back.verdict.startswith("worse by ")
    assert (back.estimate, back.above) == (-found.estimate, 0)
    low, high = bootstrap.interval(better, "mIoU")
    assert high - low > 3 * (found.high - found.low)


@pytest.mark.parametrize(("hits", "ends"), [((0, 400, 0), (0, None)), ((1_000, 600, 1_000), (None, 1))])
def test_an_interval_stays_within_what_is_possible(
    hits: tuple[int, ...], ends: tuple[float | None, ...], tmp_path: Path
) -> None:
    counts, runs = draw_counts(0, 50, 0.8), []
    for seed, hit in enumerate(hits):
        counts[:, :3, 2] = np.array([hit, 1_000, hit])
        runs.append(read_run(write_run(tmp_path / str(seed), counts, "fcn8s", seed)))
    variant = Variant("scattered", tuple(runs))
    bootstrap = Bootstrap([variant], settings=QUICK)
    interval = bootstrap.interval(variant, "IoU:car")
    assert 0 <= interval[0] < interval[1] <= 1
    for found, expected in zip(interval, ends, strict=True):
        assert expected is None or found == expected
    assert bootstrap.interval(variant, "mIoU - boundary_IoU")[0] < 0  # the least of a difference is -1


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
    narrow = compared(*still)
    wide = compared(Variant("one", tuple(runs[:3])), Variant("other", tuple(runs[3:])))
    assert narrow.shown
    assert not wide.shown
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def planted(folder: Path, holding: int) -> list[Variant]:
    """Of 1,000 pixels of a car in each of `holding` images the networks find those planted, and no others elsewhere."""
    found = {"fcn8s": (600, 610, 590), "fcn16s": (500, 510, 490)}
    counts = draw_counts(0, 50, 0.8)
    variants = []
    for model, hits in found.items():
        runs = []
        for seed, hit in enumerate(hits):
            counts[:, :, 2] = 0
            counts[:holding, :3, 2] = (hit, 1_000, hit)
            runs.append(read_run(write_run(folder / f"{model}{seed}", counts, model, seed)))
        variants.append(Variant(model, tuple(runs)))
    return variants


@pytest.mark.filterwarnings("error")
def test_a_class_in_ten_images_is_compared_over_the_resamples_that_hold_it(tmp_path: Path) -> None:
    variants = planted(tmp_path, 10)
    found = Bootstrap(variants, settings=Settings(20_000)).difference(*variants, "IoU:car")
    # All images are alike, so the seeds alone vary: Student's t of the 4 degrees of freedom that there are, and of up
    # to 6 as far as each variance is also its own.
    half = (found.high - found.low) / 2
    error = (2 * 0.01**2 / 3) ** 0.5
    assert found.estimate == pytest.approx(0.1)
    assert stats.t.ppf(0.975, 6) * error < half < stats.t.ppf(0.975, 4) * error
    assert found.verdict.startswith("better by ")


@pytest.mark.parametrize("holding", [1, 3, 9])
@pytest.mark.filterwarnings("error")
def test_a_class_in_few_images_decides_nothing(holding: int, tmp_path: Path) -> None:
    variants = planted(tmp_path, holding)
    assert images_with(variants[0].runs[0], "IoU:car") == holding
    bootstrap = Bootstrap(variants, settings=QUICK)
    car, road = bootstrap.differences([Question(*variants, f"IoU:{name}") for name in ("car", "road")])
    assert car.estimate == pytest.approx(0.1)
    assert not car.shown
    assert car.outcome == "undecided"
    assert car.verdict == f"undecided: only {holding} image{'s' * (holding > 1)} with the class car"
    assert np.isnan(bootstrap.interval(variants[0], "IoU:car")).all()
    # What is not judged takes nothing from the others.
    alone = bootstrap.difference(*variants, "IoU:road")
    assert (road.low, road.high, road.p) == (alone.low, alone.high, alone.p)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.filterwarnings("error")
def test_a_score_of_nothing_is_not_defined(seeds: int, tmp_path: Path) -> None:
    counts = draw_counts(0, 12, 0.8)
    counts[:, :, 2] = 0
    counts[:, 3:] = 0
    runs = [read_run(write_run(tmp_path / str(seed), counts, seed=seed)) for seed in range(seeds)]
    one, other = Variant("one", tuple(runs)), Variant("other", tuple(runs))
    bootstrap = Bootstrap([one, other], settings=Settings(200))
    asked = [Question(one, other, metric) for metric in ("IoU:car", "boundary_IoU", "mIoU")]
    absent, empty, whole = bootstrap.differences(asked)
    assert absent.verdict == "not defined: the class car never occurs in these images"
    assert empty.verdict == "not defined: these images hold nothing to score for boundary_IoU"
    assert not absent.shown
    assert np.isnan(bootstrap.interval(one, "IoU:car")).all()
    assert np.isfinite(whole.low)


def scattered(folder: Path) -> list[list]:
    """Runs of three networks, scored in two ways: seeds scatter by ten points, each gains one."""
    runs = []
    for place, gain in enumerate((0.01, 0.0)):
        for seed in range(3):
            counts = draw_counts(seed, 80, 0.75 + 0.05 * seed + gain)
            runs.append(read_run(write_run(folder / f"{place}_{seed}", counts, seed=seed)))
    named = [replace(run, summary=replace(run.summary, weights=f"{run.seed}")) for run in runs]
    return [runs, named]


def test_the_same_networks_scored_in_two_ways_are_compared_one_by_one(tmp_path: Path) -> None:
    others, same = (
        compared(Variant("one", tuple(of[:3])), Variant("other", tuple(reversed(of[3:])))) for of in scattered(tmp_path)
    )
    assert same.estimate == pytest.approx(others.estimate)
    assert not others.shown
    assert same.shown
    assert same.note == ""
    assert same.high - same.low < 0.2 * (others.high - others.low)


def test_variants_that_share_some_networks_are_compared_on_these(tmp_path: Path) -> None:
    _, runs = scattered(tmp_path)
    all_three, two = Variant("one", tuple(runs[:3])), Variant("other", tuple(runs[4:]))
    found = compared(all_three, two)
    alone = compared(Variant("one", tuple(runs[1:3])), two)
    assert found.verdict.endswith(", on the 2 networks that both share")
    assert (found.estimate, found.low, found.high) == (alone.estimate, alone.low, alone.high)


def test_one_seed_borrows_the_scatter_of_the_others(tmp_path: Path) -> None:
    several = fake_variants(tmp_path, {"fcn8s": 0.83, "fcn16s": 0.8, "fcn32s": 0.77})
    alone = Variant("alone", several[0].runs[:1])
    lent = Bootstrap([*several[1:], alone], settings=QUICK).difference(alone, several[1])
    bare = Bootstrap([several[1], alone], settings=QUICK).difference(alone, several[1])
    assert lent.note == ""
    assert bare.note == "of one seed"
    alike = Bootstrap(several, settings=QUICK).difference(*several[:2])
    assert 1.1 < (lent.high - lent.low) / (alike.high - alike.low) < 1.7  # of 1 and 3 seeds: (1 + 1/3) / (2/3), rooted


def test_the_same_comparison_gives_the_same_numbers(tmp_path: Path) -> None:
    pair = fake_variants(tmp_path, {"fcn8s": 0.81, "fcn16s": 0.8})
    assert compared(*pair) == compared(*pair)


def test_all_variants_have_the_same_resamples(tmp_path: Path) -> None:
    """Two runs of equal counts have equal scores in each, whether asked for alone or together."""
    variants = fake_variants(tmp_path, {"fcn8s": 0.81, "fcn16s": 0.8}, 1, 10)
    bootstrap = Bootstrap(variants, settings=Settings(2_500))
    one, other = variants[0].runs[0], variants[1].runs[0]
    both = bootstrap.resampled([one, other, one], "mIoU")
    assert both.shape == (3, 2_500)
    np.testing.assert_allclose(both[0], both[2], rtol=1e-6)
    np.testing.assert_allclose(both[1:2], bootstrap.resampled([other], "mIoU"), rtol=1e-6)


def test_what_seeds_make_of_single_images_counts_once() -> None:
    """Planted variances: of a seed by itself, of a variant at the images, of a seed at the images."""
    rng, seeds, images, both = np.random.default_rng(0), 3.0, 2.0, 1.5
    by_seed = np.tile(seeds * np.array([-1.0, 0.0, 1.0]), (2, 1))
    noise = images * rng.normal(size=(2, 1, 40_000)) + both * rng.normal(size=(2, 3, 40_000))
    blocks = Blocks(tuple(np.arange(100)[:, None]))
    sample = Sample(tuple(by_seed), tuple(by_seed[:, :, None] + noise), blocks, (0, 0), (True, True))
    np.testing.assert_allclose(sample.interactions, both**2, rtol=0.03)
    contrast = Contrast(sample, (0, 1), None)
    assert contrast.image_variance == pytest.approx(2 * images**2, rel=0.03)
    assert contrast.error**2 == pytest.approx(2 * images**2 + 2 * seeds**2 / 3, rel=0.03)
    replicates = contrast.replicates() * contrast.error  # what they deviate by, but for the error's own uncertainty
    assert np.median(np.abs(replicates)) == pytest.approx(0.6745 * contrast.error, rel=0.1)


def critical(sample: Sample, pairs: list[tuple[int, int]]) -> float:
    contrasts = [Contrast(sample, pair, None) for pair in pairs]
    largest = np.sort(np.max([np.abs(each.replicates()) for each in contrasts], axis=0))
    low, high, _ = contrasts[0].interval(largest)
    return (high - low) / 2 / contrasts[0].error


@pytest.mark.filterwarnings("error")
def test_families_have_the_critical_values_of_the_tables() -> None:
    """Where seeds scatter alike and images not at all: Student's t for one pair, Dunnett's and Tukey's for more.

    Of 30 seeds each: with so many, the moderated variance is as good as the pooled one of these tests.
    """
    by_seed = np.stack([np.random.default_rng(0).permutation(np.linspace(0, 1, 30)) for _ in range(9)])
    sample, freedom = still_images(by_seed), 9 * 29
    pairs = list(combinations(range(9), 2))
    assert critical(sample, pairs[:1]) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.02)
    assert critical(sample, pairs) == pytest.approx(stats.studentized_range.ppf(0.95, 9, freedom) / 2**0.5, rel=0.02)
    found = stats.dunnett(*by_seed[1:], control=by_seed[0], random_state=0)
    half = (found.confidence_interval(0.95).high - found.confidence_interval(0.95).low)[0] / 2
    error = (2 * by_seed[0].var(ddof=1) / 30) ** 0.5
    assert critical(sample, pairs[:8]) == pytest.approx(half / error, rel=0.02)


def test_intervals_of_all_pairs_are_tukeys_as_statsmodels_gives_them() -> None:
    """Six variants of thirty seeds that scatter by chance, and images that vary in nothing."""
    by_seed = np.random.default_rng(2).normal(np.arange(6)[:, None] / 4, 1, (6, 30))
    found = pairwise_tukeyhsd(by_seed.ravel(), np.repeat(np.arange(6), 30))
    sample = still_images(by_seed)
    contrasts = [Contrast(sample, (other, one), None) for one, other in combinations(range(6), 2)]
    largest = np.sort(np.max([np.abs(each.replicates()) for each in contrasts], axis=0))
    intervals = [each.interval(largest)[:2] for each in contrasts]
    np.testing.assert_allclose(intervals, found.confint, atol=0.05)


@pytest.mark.parametrize("resamples", [99, 100, 199, 999, 2_000, 9_999, 10_000])
def test_a_p_value_below_5_percent_is_one_outside_of_the_interval(resamples: int) -> None:
    sample = still_images(np.array([[1.0, 2.0]]), resamples)
    largest = np.linspace(1, 3, resamples)
    edge = find_critical(largest)
    for studentized in (edge - 1e-9, edge + 1e-9):
        contrast = Contrast(sample, (0,), None)
        low, _, p = contrast.interval(largest, studentized * contrast.error - contrast.estimate)
        assert (p < 0.05) == (low > contrast.estimate - studentized * contrast.error) == (studentized > edge)


def test_networks_that_are_scored_again_say_nothing_new_of_seeds(tmp_path: Path) -> None:
    """Beside a comparison of two variants, their networks mirrored: the interval is as wide as without."""
    variants = fake_variants(tmp_path, {"fcn8s": 0.8, "refinenet": 0.84}, 2, 40)
    named = [
        replace(
            each,
            runs=tuple(
                replace(run, summary=replace(run.summary, weights=f"{each.label}{run.seed}")) for run in each.runs
            ),
        )
        for each in variants
    ]
    mirrored = [replace(each, label=f"{each.label} flip") for each in named]
    alone = Bootstrap(named, settings=Settings(2_000)).difference(*named)
    beside = Bootstrap([*named, *mirrored], settings=Settings(2_000)).difference(*named)
    assert beside.high - beside.low == pytest.approx(alone.high - alone.low, rel=0.1)
    strangers = [replace(each, label=f"{each.label} again") for each in variants]
    more = Bootstrap([*variants, *strangers], settings=Settings(2_000)).difference(*variants)
    assert more.high - more.low < 0.9 * (alone.high - alone.low)


def test_two_seeds_that_scatter_alike_count_as_their_pooled_variance() -> None:
    """Three seeds of nine variants: between Tukey's value for the pooled variance and that for each one's own."""
    sample = still_images(np.tile([0.0, 1.0, 2.0], (9, 1)))
    tukey = stats.studentized_range.ppf(0.95, 9, [18, 9]) / 2**0.5
    assert tukey[0] < critical(sample, list(combinations(range(9), 2))) < tukey[1]


def test_intervals_and_p_values_never_disagree(tmp_path: Path) -> None:
    rights = {"fcn32s": 0.8, "fcn16s": 0.81, "fcn8s": 0.82, "fcn4s": 0.83, "refinenet": 0.84}
    variants = fake_variants(tmp_path, rights, 3, 40)
    asked = [Question(*pair, metric) for pair in combinations(variants, 2) for metric in ("mIoU", "IoU:car")]
    for resamples in (100, 999, 2_000):
        found = Bootstrap(variants, settings=Settings(resamples)).differences(asked)
        assert [entry.shown for entry in found] == [entry.p < 0.05 for entry in found]
        assert {entry.shown for entry in found} == {True, False}
    alone = Bootstrap(variants, settings=Settings(2_000)).differences(asked[:1])[0]
    assert alone.high - alone.low < found[0].high - found[0].low


def test_many_comparisons_still_show_what_is_large(tmp_path: Path) -> None:
    """More than 250, above which Holm's correction of resampled p-values could show nothing."""
    models = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "refinenet", "refinenet_lw")
    first = fake_variants(tmp_path, dict(zip(models, (0.7, 0.74, 0.78, 0.82, 0.86, 0.9), strict=True)), 2, 40)
    variants = [Variant(f"{variant.label} {copy}", variant.runs) for copy in range(4) for variant in first]
    asked = [Question(*pair) for pair in combinations(variants, 2)]
    found = Bootstrap(variants, settings=Settings(300)).differences(asked)
    assert len(found) > 250
    assert all(entry.shown for entry in found if abs(entry.estimate) > 0.1)


@pytest.mark.parametrize(
    ("world", "least"),
    [
        ({"images": 60}, 0.93),
        pytest.param({"images": 60, "seeds": 1, "seed_spread": 0.0}, 0.93, marks=pytest.mark.slow),
        pytest.param({"same": True}, 0.93, marks=pytest.mark.slow),
        ({"correlation": 0.85, "seeds": 1, "seed_spread": 0.0}, 0.86),
        pytest.param({"variants": 9, "step": 0.05}, 0.93, marks=pytest.mark.slow),
        pytest.param({"correlation": 0.5}, 0.93, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_intervals_hold_the_truth_as_often_as_they_say(world: dict, least: float) -> None:
    """As far as 300 simulations tell; `docs/statistics.md` has the figures."""
    from interval_coverage import World, coverage

    assert least <= coverage(World(**world), 300, resamples=400)[0] <= 0.98


def test_verdicts_say_what_their_intervals_say() -> None:
    assert difference(0.01, 0.02).verdict == "better by 1.0 to 2.0 points"
    assert difference(-0.034, -0.021).verdict == "worse by 2.1 to 3.4 points"
    assert difference(-0.01, 0.02).verdict == "undecided (-1.0 to +2.0 points)"
    assert difference(-0.008, 0.009).verdict == "practically equal (-0.8 to +0.9 points)"
    assert difference(0.002, 0.009).verdict == "practically equal (+0.2 to +0.9 points)"
    assert replace(difference(0.002, 0.009), equivalence=0.001).verdict == "better by 0.2 to 0.9 points"
