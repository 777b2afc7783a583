"""Moderated variances against values worked out by the formulas of limma."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma

from segrefine.compare.moderation import bartlett, fit_prior, moderate, trigamma_inverse


@pytest.mark.parametrize("x", [1e-4, 0.05, 0.5, 1.0, 3.7, 100.0, 1e5])
def test_trigamma_is_inverted(x: float) -> None:
    assert trigamma_inverse(float(polygamma(1, x))) == pytest.approx(x, rel=1e-6)


def test_the_prior_is_that_of_the_formulas() -> None:
    """By hand, Smyth 2004, section 6.2, for variances 1, 4, 100 with 2 degrees of freedom.

    digamma(1) = -0.5772157, trigamma(1) = pi^2 / 6. e = log(variance) + 0.5772157: 0.5772157, 1.9635100, 5.1823859;
    their mean 2.5743705, their variance 5.5817610. trigamma(d0 / 2) = 5.5817610 - 1.6449341 = 3.9368269, and
    s0^2 = exp(2.5743705 + digamma(d0 / 2) - log(d0 / 2)).
    """
    prior, common = fit_prior(np.array([1.0, 4.0, 100.0]), np.array([2, 2, 2]))
    half = prior / 2
    assert float(polygamma(1, half)) == pytest.approx(3.9368269, rel=1e-6)
    assert common == pytest.approx(np.exp(2.5743705 + float(polygamma(0, half))) / half, rel=1e-6)


def test_variances_are_shrunk_by_their_degrees_of_freedom() -> None:
    variances, own = np.array([1.0, 4.0, 30.0, 0.0]), np.array([2, 3, 2, 0])
    prior, common = fit_prior(variances[:3], own[:3])
    found = moderate(variances, own)
    assert 0 < prior < 7
    expected = [(prior * common + d * v) / (prior + d) for d, v in zip(own[:3], variances[:3], strict=True)]
    np.testing.assert_allclose(found.variances, [*expected, common])


def test_variances_that_are_alike_have_a_prior_as_good_as_all_together() -> None:
    found = moderate([1.0, 1.1, 0.9, 1.0], [2, 2, 2, 2])
    assert found.prior == 8
    np.testing.assert_allclose(found.variances, [1.0, 1.02, 0.98, 1.0])  # 4/5 of the mean and 1/5 of their own


def test_networks_that_are_scored_in_two_ways_count_once() -> None:
    plain = moderate([1.0, 1.1, 0.9], [2, 2, 2])
    twice = moderate([1.0, 1.1, 0.9, 5.0], [2, 2, 2, 2], [True, True, True, False])
    assert plain.prior == twice.prior == 6
    np.testing.assert_allclose(twice.variances, [*plain.variances, 0.75 * 1.0 + 0.25 * 5.0])
    drawn = twice.draw(100_000, np.random.default_rng(0))  # 6 + 2, and 3/4 of 6 shared by all
    np.testing.assert_allclose(drawn.var(1), (1 + 0.5625 * 2 / 6 + 0.0625 * 2 / 2) * (1 + 2 / 8) - 1, rtol=0.05)


def test_variances_that_clearly_differ_stay_their_own() -> None:
    found = moderate([1.0, 1e4, 1.0, 5.0], [4, 4, 4, 0])
    assert found.prior == 0
    np.testing.assert_array_equal(found.variances, [1.0, 1e4, 1.0, np.nan])


@pytest.mark.filterwarnings("error")
def test_seeds_that_do_not_vary_at_all() -> None:
    np.testing.assert_array_equal(moderate([0.0, 0.0, 0.0], [2, 2, 2]).variances, np.zeros(3))
    np.testing.assert_array_equal(moderate([0.0, 0.0], [0, 0]).variances, [np.nan, np.nan])
    assert np.isfinite(moderate([0.0, 1.0, 2.0], [2, 2, 2]).variances).all()


def test_bartlett_is_that_of_scipy() -> None:
    samples = [np.random.default_rng(seed).normal(0, 1 + seed, 4 + seed) for seed in range(4)]
    variances = np.array([sample.var(ddof=1) for sample in samples])
    freedom = np.array([len(sample) - 1 for sample in samples])
    assert bartlett(variances, freedom) == pytest.approx(stats.bartlett(*samples).pvalue)


def test_draws_have_the_spread_of_their_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    own = moderate([1.0, 1e4, 1.0, 1.0], [4, 4, 4, 4]).draw(20_000, rng)
    np.testing.assert_allclose(own.var(1), 2 / 4, rtol=0.06)
    np.testing.assert_allclose(own.mean(1), 1, rtol=0.02)
    alike = moderate([1.0, 1.1, 0.9, 1.0], [2, 2, 2, 2]).draw(20_000, rng)  # 8 + 2, and 4/5 of 8 shared by all
    np.testing.assert_allclose(alike.var(1), (1 + 0.64 * 2 / 8 + 0.04 * 2 / 2) * (1 + 2 / 10) - 1, rtol=0.06)
    assert np.corrcoef(alike)[0, 1] == pytest.approx(0.16 / alike[0].var(), abs=0.05)
