"""Moderate the variances between seeds: estimate how much a variant's seeds scatter with the help of the others.

Three seeds say little about a variance. If the seeds of all variants scatter alike, all of them together say more. Each
variant's variance is then shrunk toward a common one (Smyth, "Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments", 2004, section 6.2; `squeezeVar` and `fitFDist` of limma).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import chi2

DIFFER = 0.01
"""If the p-value of Bartlett's test is lower, the variances clearly differ and each variant keeps its own."""

SMALLEST = 1e-5
"""Variances below this fraction of the median are raised to it, as in limma's `fitFDist`: zero has no logarithm."""


@dataclass(frozen=True)
class Moderated:
    """Variances of seeds after moderation, for V variants."""

    variances: np.ndarray  # (V,) moderated; NaN where a variant of one seed has nothing to borrow
    own: np.ndarray  # (V,) degrees of freedom of each variant's own variance, the number of seeds minus one
    prior: float  # degrees of freedom of the common variance; 0 if each variant keeps its own
    counted: np.ndarray  # (V,) whether a variant has networks of its own, and not those of an earlier one

    def draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the factors by which the moderated variances might have come out differently.

        With a prior, two sources of scatter count. The true variances scatter about the moderated ones with the degrees
        of freedom of the prior and of the variant together (Smyth 2004, section 4). The moderated ones in turn combine
        the common variance, with all degrees of freedom, and the variant's own, weighted by their degrees of freedom.
        Simulation (`docs/statistics.md`) shows that both are needed.

        Returns:
            (V, R) factors.
        """
        share = (self.prior / np.maximum(self.prior + self.own, 1))[:, None]
        common = _chi_square(np.array([max(self.own[self.counted].sum(), 1)]), resamples, rng)
        found = share * common + (1 - share) * _chi_square(self.own, resamples, rng)
        return found * _chi_square(self.prior + self.own, resamples, rng) if self.prior else found


def _chi_square(freedom: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw chi-square values over their degrees of freedom (V,), as (V, R); 1 where there are no degrees of freedom."""
    drawn = rng.chisquare(np.maximum(freedom, 1)[:, None], (len(freedom), resamples))
    return np.where(freedom[:, None] > 0, drawn / np.maximum(freedom, 1)[:, None], 1.0)


def moderate(
    variances: Sequence[float] | np.ndarray,
    own: Sequence[int] | np.ndarray,
    counted: Sequence[bool] | np.ndarray | None = None,
) -> Moderated:
    """Shrink variances (V,) with `own` (V,) degrees of freedom toward a common one, as far as they are alike.

    A variance without degrees of freedom is ignored. It is replaced by the common one if at least two others have
    degrees of freedom and do not clearly differ. The same networks scored in another way say nothing new about seeds,
    so only variants that are `counted` (V,), by default all, make up the common variance.
    """
    variances, own = np.asarray(variances, float), np.asarray(own)
    counted = np.ones(len(own), bool) if counted is None else np.asarray(counted)
    several = own > 0
    raw, freedom = variances[several & counted], own[several & counted]
    if len(raw) < 2 or bartlett(raw, freedom) < DIFFER:
        return Moderated(np.where(several, variances, np.nan), own, 0.0, counted)
    prior, common = fit_prior(raw, freedom)
    prior = min(prior, float(freedom.sum()))  # the common variance is not known better than from all seeds together
    shrunk = (prior * common + own * np.where(several, variances, 0)) / (prior + own)
    return Moderated(shrunk, own, prior, counted)


def bartlett(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Return the p-value of Bartlett's test (1937) that all variances (V,) are the same; 1 if all are zero."""
    total, pooled = freedom.sum(), (freedom * variances).sum() / freedom.sum()
    if pooled == 0:
        return 1.0
    floored = np.maximum(variances, SMALLEST * pooled)
    statistic = total * np.log(pooled) - (freedom * np.log(floored)).sum()
    correction = 1 + ((1 / freedom).sum() - 1 / total) / (3 * (len(variances) - 1))
    return float(chi2.sf(statistic / correction, len(variances) - 1))


def fit_prior(variances: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """Return the degrees of freedom and value of the common variance, by moments of the logarithms (Smyth, 6.2).

    If the logarithms vary no more than by chance, these are infinity and the pooled mean.
    """
    pooled = float((freedom * variances).sum() / freedom.sum())
    floored = np.maximum(variances, SMALLEST * np.median(variances))
    if pooled == 0 or (floored <= 0).any():
        return np.inf, pooled
    logs = np.log(floored) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
    if excess <= 0:
        return np.inf, pooled
    half = trigamma_inverse(excess)
    return 2 * half, float(np.exp(logs.mean() + digamma(half) - np.log(half)))


def trigamma_inverse(value: float) -> float:
    """Return x of trigamma(x) = value > 0."""
    return float(np.exp(brentq(lambda x: np.log(polygamma(1, np.exp(x)) / value), -20, 700)))
