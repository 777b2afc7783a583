"""Resample the images of a set, in blocks if they follow one another like the frames of a sequence.

Consecutive frames are much alike, so 101 of them may be worth ten independent images. Blocks of neighbors are then
drawn instead of single images (the circular block bootstrap: Politis and Romano, "A circular block-resampling procedure
for stationary data", 1992). Shapes: N images, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

CHUNK = 500
"""Resamples drawn or scored at a time, which bounds the memory for sets of thousands of images."""


@dataclass(frozen=True)
class Blocks:
    """How the images are drawn: in blocks of `length` neighbors of a sequence."""

    sequences: tuple[np.ndarray, ...]  # the indices of each one's images; an image of no sequence is one by itself
    length: int = 1  # images of a block, 1 for independent ones; a shorter sequence is a block as a whole
    correlation: float = 0.0  # of neighbors, at lag 1: `inflation` corrects for what blocks of this length miss

    @property
    def count(self) -> int:
        """The number of images, N."""
        return sum(map(len, self.sequences))

    def draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
        """Draw resamples of N images: how often each resample holds each image, (R, N) uint16."""
        return np.concatenate([self._draw(min(CHUNK, resamples - at), rng) for at in range(0, resamples, CHUNK)])

    def _draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
        count = self.count
        if self.length == 1:
            return rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.uint16)
        order = np.concatenate(self.sequences)
        each = np.array([len(one) for one in self.sequences])
        sizes, firsts = np.repeat(each, each), np.repeat(np.cumsum(each) - each, each)
        lengths = np.minimum(sizes, self.length)
        # A block starts at any image, less often where blocks are long, so that every image is drawn equally often.
        chance = (1 / lengths) / (1 / lengths).sum()
        starts = rng.choice(count, (resamples, -(-count // lengths.min())), p=chance)
        used = np.cumsum(lengths[starts], axis=1)
        taken = np.minimum(lengths[starts], count - used + lengths[starts]).clip(0)  # the last block is cut off
        steps = np.arange(self.length)
        first, size = firsts[starts][..., None], sizes[starts][..., None]
        places = first + (starts[..., None] - first + steps) % size
        row = np.arange(resamples)[:, None, None] * count
        drawn = (row + order[places])[steps < taken[..., None]]
        return np.bincount(drawn, minlength=resamples * count).reshape(resamples, count).astype(np.uint16)

    @cached_property
    def inflation(self) -> float:
        """The factor by which the variance of a mean exceeds what blocks show of it, at least 1.

        Blocks weight a covariance at lag k by 1 - k / length only, and ignore those beyond. The loss is computed for a
        first-order autoregression with the images' own correlation (as prewhitening does: Andrews and Monahan, "An
        improved heteroskedasticity and autocorrelation consistent covariance matrix estimator", Econometrica 1992).
        """
        return self._weighted(None) / self._weighted(self.length)

    @property
    def effective(self) -> float:
        """How many independent images these are worth for the mean of a quantity of each image."""
        return self.count / self._weighted(None)

    def _weighted(self, length: int | None) -> float:
        """Return the mean over the images of the sum of correlation^|k|, each weighted by 1 - |k| / length.

        Without a length, the length is that of the whole sequence.
        """
        total = 0.0
        for size in map(len, self.sequences):
            lags = np.arange(1, size if length is None else min(size, length))
            total += size * (1 + 2 * float(((1 - lags / (len(lags) + 1)) * self.correlation**lags).sum()))
        return total / self.count

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of Student's t that account for how little the images show of their own variance.

        Their 97.5 % point is the critical value for the Bartlett kernel whose width is a fixed fraction of the series
        (Kiefer and Vogelsang, "A new asymptotic theory for heteroskedasticity-autocorrelation robust tests",
        Econometric Theory 2005, table 1). For independent images this is about N - 1. For dependent images the degrees
        of freedom do not exceed those that follow from the variance of an autoregression. The variance of the logarithm
        of (its innovations' variance over (1 - correlation)^2) is 2 / N + 4 / N (1 + correlation) / (1 - correlation),
        by the delta method.
        """
        share = min(self.length / self.count, 1.0)
        critical = 1.96 + 2.9694 * share + 0.416 * share**2 - 0.5324 * share**3
        freedom = float(brentq(lambda freedom: stdtrit(freedom, 0.975) - critical, 1.5, 1e6))
        if self.length == 1:
            return freedom
        ratio = (1 + self.correlation) / (1 - self.correlation)
        return float(np.clip(self.count / (1 + 2 * ratio), 1, freedom))


def choose_blocks(sequences: Sequence[np.ndarray], influences: np.ndarray, length: int | None = None) -> Blocks:
    """Choose the length of the blocks from the data, or use the given one.

    Args:
        sequences: see `Blocks`.
        influences: (V, N) of each image on V scores, or on their differences.
        length: images of a block; None for the mean over the V of the length that suits each.
    """
    sequences = tuple(sequences)
    longest = max(map(len, sequences))
    series = [one - one.mean() for one in influences if np.ptp(one) > 0]
    if longest == 1 or length == 1 or not series:
        return Blocks(sequences)
    if length is None:
        length = int(np.ceil(np.mean([block_length(one, sequences) for one in series])))
    correlation = float(np.mean([neighbor_correlation(one, sequences) for one in series]))
    return Blocks(sequences, int(np.clip(length, 1, longest)), correlation)


def covariance(series: np.ndarray, sequences: Sequence[np.ndarray], lag: int) -> float:
    """Return the autocovariance of a centered series (N,) at a lag, over pairs within a sequence, divided by N."""
    products = [series[one[lag:]] @ series[one[: len(one) - lag]] for one in sequences if len(one) > lag]
    return float(sum(products)) / len(series)


def block_length(series: np.ndarray, sequences: Sequence[np.ndarray]) -> float:
    """Return the best block length for a centered series (N,).

    Politis and White, "Automatic block-length selection for the dependent bootstrap", Econometric Reviews 2004, for
    circular blocks, with the correction of Patton, Politis and White, 2009.
    """
    count = len(series)
    longest = int(np.ceil(min(3 * count**0.5, count / 3)))
    window = max(5, int(np.ceil(np.log10(count) ** 0.5)))
    lags = min(int(np.ceil(count**0.5)) + window, count - 1)
    covariances = np.array([covariance(series, sequences, lag) for lag in range(lags + 1)])
    small = np.abs(covariances[1:] / covariances[0]) < 2 * (np.log10(count) / count) ** 0.5
    starts = [lag for lag in range(1, lags - window + 2) if small[lag - 1 : lag - 1 + window].all()]
    large = np.flatnonzero(~small)
    last = (starts[0] - 1) if starts else (int(large[-1]) + 1 if len(large) else 0)  # the last lag that matters
    width = min(2 * max(last, 1), lags)
    at = np.arange(1, width + 1)
    taper = np.minimum(1, 2 * (1 - at / width)).clip(0)
    spectrum = covariances[0] + 2 * (taper * covariances[1 : width + 1]).sum()
    slope = 2 * (taper * at * covariances[1 : width + 1]).sum()
    if spectrum <= 0:
        return 1.0
    best = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * count ** (1 / 3)
    return float(np.clip(best, 1, longest))


def neighbor_correlation(series: np.ndarray, sequences: Sequence[np.ndarray]) -> float:
    """Return the correlation of neighbors in a centered series (N,), between 0 and 0.97 and corrected for bias.

    This is the correlation at lag 1, or a larger one that the correlation at lag 2 or 3 implies for an autoregression.
    Lags 2 and 3 count only if they are more than chance (by the limit of Politis and White 2004). Noise of single
    images lowers the correlation at lag 1, but not how slowly the others fall. Bias in short series (Kendall, "Note on
    bias in the estimation of autocorrelation", Biometrika 1954): the estimate is too small by (1 + 4 correlation) / N.
    """
    lags = [covariance(series, sequences, lag) / covariance(series, sequences, 0) for lag in (1, 2, 3)]
    chance = 2 * (np.log10(len(series)) / len(series)) ** 0.5
    slower = [one ** (1 / lag) for lag, one in enumerate(lags[1:], 2) if min(one, lags[0]) > chance]
    found = max([lags[0], *slower])
    return float(np.clip(found + (1 + 4 * found) / len(series), 0, 0.97))
