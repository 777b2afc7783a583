"""Looking ahead: what more seeds would find, against closed forms."""

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from fake_runs import fake_variants, still_images
from scipy.stats import norm
from statsmodels.stats.power import TTestIndPower

from segrefine.compare.contrast import Contrast
from segrefine.compare.plan import SEEDS, Planner
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import Variant


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Bootstrap:
    """Three variants of three seeds, two of them alike."""
    variants = fake_variants(tmp_path_factory.mktemp("runs"), {"fcn8s": 0.8, "fcn16s": 0.8, "fcn32s": 0.6})
    return Bootstrap(variants, settings=Settings(2000, equivalence=0.1))


def questions(variants: tuple[Variant, ...]) -> list[Question]:
    return [Question(one, other) for one, other in combinations(variants, 2)]


def test_the_smallest_difference_is_what_normal_theory_says(bootstrap: Bootstrap) -> None:
    """For one pair and many seeds, when variances are nearly known: a little more, since they are not quite."""
    question = questions(bootstrap.variants)[:1]
    contrast = bootstrap.contrast(question[0])
    by_seeds = contrast.sample.seeds.variances[[0, 1]].sum()
    for seeds in (20, 50):
        error = (contrast.image_variance + by_seeds / seeds) ** 0.5
        expected = (norm.ppf(0.975) + norm.ppf(0.8)) * error
        assert Planner(bootstrap, question).reach(seeds)[0] == pytest.approx(1.05 * expected, rel=0.07)


@pytest.mark.parametrize("seeds", [5, 10, 30])
def test_the_smallest_difference_is_what_statsmodels_says_of_a_t_test(seeds: int) -> None:
    """Two variants whose thirty seeds so far scatter alike, and still images: 2 to 4 % too hopeful."""
    by_seed = np.stack([np.linspace(0, 1, 30)] * 2)
    contrast = Contrast(still_images(by_seed, 2_000), (0, 1), None)
    known = SimpleNamespace(contrast=lambda question: contrast, settings=Settings(2_000))
    planner = Planner(cast("Bootstrap", known), [cast("Question", None)])
    effect = TTestIndPower().solve_power(nobs1=seeds, alpha=0.05, power=0.8)
    assert planner.reach(seeds)[0] == pytest.approx(0.97 * effect * by_seed[0].std(ddof=1), rel=0.02)


def test_few_seeds_reach_less_and_many_pairs_too(bootstrap: Bootstrap) -> None:
    pairs = questions(bootstrap.variants)
    planner = Planner(bootstrap, pairs)
    reaches = np.array([planner.reach(seeds) for seeds in (2, 3, 5, 10, 50)])
    assert (np.diff(reaches, axis=0) < 0).all()
    assert (Planner(bootstrap, pairs[:1]).reach(3) < planner.reach(3)[:1]).all()


def test_the_present_seeds_reach_what_their_interval_leaves_out(bootstrap: Bootstrap) -> None:
    """With as many seeds as there are, a difference is found in half of cases if it is as wide as its interval."""
    question = questions(bootstrap.variants)[:1]
    (found,) = bootstrap.differences(question)
    error = bootstrap.contrast(question[0]).error
    assert Planner(bootstrap, question).reach(3)[0] == pytest.approx(
        (found.high - found.low) / 2 + norm.ppf(0.8) * error, rel=0.06
    )


def test_undecided_differences_are_told_how_many_seeds_they_need(bootstrap: Bootstrap) -> None:
    pairs = questions(bootstrap.variants)
    planner = Planner(bootstrap, pairs)
    found = planner.seeds_needed(bootstrap.differences(pairs))
    assert [entry.outcome for entry in found] == ["undecided", "better", "better"]
    assert [entry.needed for entry in found[1:]] == [None, None]
    needed = found[0].needed
    assert needed in (0, *SEEDS[2:])
    decided = [seeds for seeds in SEEDS if seeds > 3 and planner.decides(found, seeds)[0]]
    assert needed == (decided[0] if decided else 0)
    assert found[0].verdict.endswith("seeds of each would probably decide" if needed else "would hardly decide")
    plans = planner.plan(found)
    assert [plan.seeds for plan in plans] == list(SEEDS)
    assert plans[1].worst >= plans[1].typical > plans[-1].typical > 0
    assert {plan.decided for plan in plans} <= {0, 1}


def test_nothing_is_planned_without_knowing_how_seeds_vary(tmp_path: Path) -> None:
    variants = fake_variants(tmp_path, {"fcn8s": 0.8, "fcn16s": 0.805}, seeds=1)
    bootstrap = Bootstrap(variants, settings=Settings(200))
    pairs = questions(bootstrap.variants)
    planner = Planner(bootstrap, pairs)
    assert planner.plan(bootstrap.differences(pairs)) == []
    assert planner.seeds_needed(bootstrap.differences(pairs))[0].needed is None
