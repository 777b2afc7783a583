"""Contrast the scores of two variants over resamples and seeds: estimate, standard error and interval.

Shapes: V variants, S seeds of a variant, R resamples. `statistics.py` explains what contrasts are for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segrefine.compare.moderation import Moderated, moderate
from segrefine.compare.resampling import Blocks

ONE_SEED = "of one seed"
"""Added to a verdict if a side has only one seed. Such a verdict ignores how much another seed would change."""

LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """A score of V variants, or of one difference: by seed, for the set and for every resample of the images."""

    by_seed: tuple[np.ndarray, ...]  # V times (S,), the score of each seed on the set
    resampled: tuple[np.ndarray, ...]  # V times (S, R), the score of each seed on each resample
    blocks: Blocks
    entropy: tuple[int, int]
    counted: tuple[bool, ...]  # V times, whether the networks are not those of an earlier variant
    planned: int | None = None  # seeds that each variant would have if more were trained; None for those that it has

    def with_seeds(self, seeds: int, resamples: int) -> "Sample":
        """Return the sample as if every variant had this many seeds, with only the first of its resamples."""
        return replace(self, planned=seeds, resampled=tuple(each[:, :resamples] for each in self.resampled))

    @property
    def counts(self) -> np.ndarray:
        """The number of seeds of each variant, (V,)."""
        return np.array([self.planned or len(scores) for scores in self.by_seed])

    @cached_property
    def means(self) -> np.ndarray:
        """The mean score over the seeds, (V,)."""
        return np.array([scores.mean() for scores in self.by_seed])

    @cached_property
    def deviations(self) -> np.ndarray:
        """The mean over the seeds in each resample minus that of the set, (V, R); NaN where nothing is scored."""
        means = np.array([scores.mean(0) for scores in self.resampled])
        return (means - self.means[:, None]) * self.blocks.inflation**0.5

    @cached_property
    def interactions(self) -> np.ndarray:
        """The variance of a seed's score that comes from how that seed handles the images at hand, (V,).

        The resamples already contain it: it is how much less the mean over the seeds varies with the images than each
        seed does. A variant with one seed gets the mean of the others.
        """
        found = np.full(len(self.means), np.nan)
        for place, resampled in enumerate(self.resampled):
            defined = np.isfinite(resampled).all(0)
            seeds = len(resampled)
            if seeds > 1 and defined.any():
                each, mean = resampled[:, defined].var(1).mean(), resampled[:, defined].mean(0).var()
                found[place] = (each - mean) * seeds / (seeds - 1) * self.blocks.inflation
        known = found[np.isfinite(found)]
        return np.where(np.isfinite(found), found, known.mean() if len(known) else 0.0)

    @cached_property
    def overlaps(self) -> np.ndarray:
        """What the variance of a mean over the existing seeds and its variance over the images have in common, (V,)."""
        count = np.array([len(scores) for scores in self.by_seed])
        return np.where(np.isnan(self.seeds.variances), 0.0, np.nan_to_num(self.interactions) / count)

    @cached_property
    def seeds(self) -> Moderated:
        """What is known about how the scores of seeds vary."""
        own = np.array([len(scores) - 1 if np.isfinite(scores).all() else 0 for scores in self.by_seed])
        variances = [scores.var(ddof=1) if freedom else 0.0 for scores, freedom in zip(self.by_seed, own, strict=True)]
        found = moderate(variances, own, self.counted)
        return replace(found, own=self.counts - 1) if self.planned else found

    def over_seeds(self, variances: np.ndarray) -> np.ndarray:
        """Return the variance of means over seeds, (V, ...), from that of single seeds; 0 where it is unknown."""
        known = np.where(np.isnan(self.seeds.variances), 0, 1 / self.counts)
        return np.nan_to_num(variances) * known.reshape(-1, *[1] * (variances.ndim - 1))

    @cached_property
    def drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three arrays of draws, each (V, R) float32.

        They are what other seeds would add to a mean, its variance over seeds as another sample might show it, and
        standard normal draws for how well the images show their own variance.
        """
        rng = np.random.default_rng(self.entropy)
        shape = self.deviations.shape
        left = (self.over_seeds(self.seeds.variances) - self.over_seeds(self.interactions)).clip(0)
        noise = rng.standard_normal(shape, np.float32) * left[:, None] ** 0.5
        found = self.over_seeds(self.seeds.variances[:, None] * self.seeds.draw(shape[1], rng))
        return noise.astype(np.float32), found.astype(np.float32), rng.standard_normal(shape, np.float32)


@dataclass(frozen=True)
class Contrast:
    """The score of one variant, or the difference between the scores of two."""

    sample: Sample  # the scores of all variants
    places: tuple[int, ...]  # the variant's index in the sample, or the indices of the first and the second
    few: int | None  # the number of images that hold something to score, if these are too few
    shared: str = ""  # a note if only some of the networks are compared

    @cached_property
    def estimate(self) -> float:
        """The mean over the seeds."""
        return float(self._between(self.sample.means))

    @property
    def defined(self) -> bool:
        """Whether there is enough data to judge."""
        return self.few is None and np.isfinite(self.estimate)

    @property
    def above(self) -> float:
        """The fraction of pairs of seeds in which the first is above the second; ties count half."""
        one = self.sample.by_seed[self.places[0]]
        other = self.sample.by_seed[self.places[1]] if len(self.places) > 1 else np.zeros(1)
        gaps = np.subtract.outer(one, other)
        return float((gaps > 0).mean() + (gaps == 0).mean() / 2)

    @property
    def knows_seeds(self) -> bool:
        """Whether anything is known about how the scores of its seeds vary."""
        return not np.isnan(self.sample.seeds.variances[list(self.places)]).any()

    @property
    def note(self) -> str:
        """What limits a verdict on this contrast."""
        return ", ".join(filter(None, [self.shared, ONE_SEED if self.defined and not self.knows_seeds else ""]))

    @cached_property
    def image_variance(self) -> float:
        """The variance over the images, without each seed's own part, which the variance over seeds contains."""
        shared = self.sample.overlaps[list(self.places)].sum()
        return max(float(np.nanvar(self._between(self.sample.deviations)) - shared), 0.0)

    @property  # not cached: hundreds of pairs of a dozen scores would fill half a gigabyte
    def deviations(self) -> np.ndarray:
        """The score's deviation in every resample, (R,). Planned seeds average out how each seed handles an image."""
        found = self._between(self.sample.deviations)
        if self.sample.planned is None or not np.nanvar(found):
            return found
        left = self.sample.over_seeds(self.sample.interactions)[list(self.places)].sum()
        return found * ((self.image_variance + left) / np.nanvar(found)) ** 0.5

    @cached_property
    def error(self) -> float:
        """The standard error over images and seeds."""
        seeds = self.sample.over_seeds(self.sample.seeds.variances)[list(self.places)].sum()
        return float(self.image_variance + seeds) ** 0.5

    def replicates(self) -> np.ndarray:
        """Return the score's deviation in every resample, with other seeds, over its standard error there, (R,)."""
        noise, variances, normal = self.sample.drawn
        # Pairs that have a variant in common have part of their images' variance in common.
        drawn = normal[list(self.places)].sum(0) / len(self.places) ** 0.5
        images = self.image_variance * _wilson_hilferty(drawn, self.sample.blocks.freedom)
        error = (images + variances[list(self.places)].sum(0)) ** 0.5
        deviations = self.deviations + self._between(noise)
        return np.divide(deviations, error, out=np.zeros_like(error), where=error > 0)

    def interval(self, largest: np.ndarray, margin: float = 0.0) -> tuple[float, float, float]:
        """Return the interval and the p-value for a score above `-margin`.

        The p-value is below 5 % if and only if the interval excludes `-margin`.

        Args:
            largest: (R,) the sorted largest studentized deviations of the family.
            margin: a fraction.

        Returns:
            The lower end, the upper end and the p-value; NaN if there is too little data to judge.
        """
        if not self.defined:
            return np.nan, np.nan, np.nan
        count = len(largest)
        distance = abs(self.estimate + margin)
        studentized = distance / self.error if self.error else np.inf if distance else 0.0
        beyond = count - int(np.searchsorted(largest, studentized))
        width = find_critical(largest) * self.error
        return self.estimate - width, self.estimate + width, (beyond + 1) / (count + 1)

    def _between(self, values: np.ndarray) -> np.ndarray:
        return values[self.places[0]] - (values[self.places[1]] if len(self.places) > 1 else 0)


def find_largest(family: Sequence[Contrast], resamples: int) -> np.ndarray:
    """Return the largest studentized deviation of the family in each resample, (R,), sorted."""
    largest = np.zeros(resamples)
    for contrast in family:
        if contrast.defined:
            largest = np.fmax(largest, np.abs(contrast.replicates()))
    return np.sort(largest)


def find_critical(largest: np.ndarray) -> float:
    """Return how many standard errors an interval extends to each side, from the result of `find_largest`."""
    beyond = math.ceil(round((1 - LEVEL) * (len(largest) + 1), 9)) - 1  # the most with a p-value below 5 %
    return float(largest[-max(beyond, 1)])


def _wilson_hilferty(normal: np.ndarray, freedom: float) -> np.ndarray:
    """Return chi-square over its degrees of freedom from standard normal draws (Wilson and Hilferty, PNAS 1931)."""
    scale = 2 / (9 * freedom)
    return (1 - scale + normal * scale**0.5).clip(0.05) ** 3
