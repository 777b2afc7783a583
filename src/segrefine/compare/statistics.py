"""Which differences between variants are more than noise: of the images that were scored and of the seeds.

The images are resampled as pairs, the same ones for all variants, and the score of the set is recomputed for each
resample (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13). The seeds enter by their
variance, moderated over the variants and freed of the share that the images have in it. All differences that are asked
for together get intervals that hold together, from the largest studentized difference of every resample (max-t:
Westfall and Young, "Resampling-Based Multiple Testing", 1993). `docs/statistics.md` says how well that works.

V variants, S seeds of one, R resamples, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np

from segrefine.compare.difference import EQUIVALENCE, FEW_IMAGES, Difference
from segrefine.compare.moderation import Moderated, moderate
from segrefine.compare.resampling import Blocks, choose_blocks
from segrefine.compare.scores import images_with, scores
from segrefine.compare.sequences import find_sequences
from segrefine.compare.variants import Variant
from segrefine.runs.read import Run

ONE_SEED = "of one seed"
"""Noted where a side has one seed alone: how much another seed would change is left out of the verdict."""

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Settings:
    """How variants are compared.

    Attributes:
        resamples: of the images.
        seed: of the resamples.
        block_length: images of a block; None: by the data.
        equivalence: points within which variants count as practically equal.
        plan: whether to tell what more seeds would find.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    block_length: int | None = None
    equivalence: float = EQUIVALENCE
    plan: bool = False


@dataclass(frozen=True)
class Question:
    """Is `one` above `other` in a score; or, with a margin (a fraction), not below it by more?"""

    one: Variant
    other: Variant
    metric: str = "mIoU"
    margin: float = 0.0


class Bootstrap:
    """Scores of variants over resamples of their images, the same ones for every run, and what follows from them.

    Args:
        variants: all scored on the same images.
        metric: the score whose differences choose the length of blocks, where images form sequences.
        settings: see `Settings`.
    """

    def __init__(self, variants: Sequence[Variant], metric: str = "mIoU", settings: Settings | None = None) -> None:
        self.variants, self.settings = tuple(variants), settings or Settings()
        self._samples: dict[str, Sample] = {}
        self.blocks = self._choose_blocks(metric)

    def _choose_blocks(self, metric: str) -> Blocks:
        sequences = find_sequences(self.variants[0].runs[0])
        if max(map(len, sequences)) == 1:
            return Blocks(sequences)
        count = len(self.variants[0].runs[0].images)
        without = [scores(variant.runs, metric, 1 - np.eye(count)).mean(0) for variant in self.variants]
        influences = np.nan_to_num(np.array(without))
        if len(self.variants) > 1:  # what an image says of differences is what matters
            influences -= influences.mean(0)
        return choose_blocks(sequences, influences, self.settings.block_length)

    @cached_property
    def _weights(self) -> np.ndarray:
        return self.blocks.draw(self.settings.resamples, np.random.default_rng(self.settings.seed))

    def resampled(self, runs: Sequence[Run], metric: str) -> np.ndarray:
        """(runs, R) scores, float32."""
        return scores(runs, metric, self._weights).astype(np.float32)

    def sample(self, metric: str) -> "Sample":
        """Return the scores of all variants; computed once a score."""
        if metric not in self._samples:
            runs = [run for variant in self.variants for run in variant.runs]
            ends = np.cumsum([len(variant.runs) for variant in self.variants])[:-1]
            by_seed, resampled = np.split(scores(runs, metric), ends), np.split(self.resampled(runs, metric), ends)
            self._samples[metric] = self._sample(by_seed, resampled, metric)
        return self._samples[metric]

    def _sample(self, by_seed: Sequence[np.ndarray], resampled: Sequence[np.ndarray], name: str) -> "Sample":
        # Draws of their own for every score, as what seeds do to one class tells little of what they do to another.
        return Sample(tuple(by_seed), tuple(resampled), self.blocks, (self.settings.seed, crc32(name.encode())))

    def difference(self, one: Variant, other: Variant, metric: str = "mIoU", margin: float = 0.0) -> Difference:
        """How far `one` is above `other`, or no more than `margin` below it, where nothing else is asked."""
        return self.differences([Question(one, other, metric, margin)])[0]

    def differences(self, questions: Sequence[Question]) -> list[Difference]:
        """Answer the questions as one family: all intervals hold the truth at once in 95 % of cases."""
        found = [self.contrast(question) for question in questions]
        largest = find_largest(found, self.settings.resamples)
        return [self._answer(*each, largest) for each in zip(questions, found, strict=True)]

    def _answer(self, question: Question, contrast: "Contrast", largest: np.ndarray) -> Difference:
        low, high, p = contrast.interval(largest, question.margin)
        return Difference(
            one=question.one.label,
            other=question.other.label,
            metric=question.metric,
            estimate=contrast.estimate,
            low=max(low, -1.0),  # NaN stays NaN
            high=min(high, 1.0),
            p=p,
            above=contrast.above,
            seeds=(len(question.one.runs), len(question.other.runs)),
            margin=question.margin,
            equivalence=self.settings.equivalence / 100,
            few=contrast.few,
            note=contrast.note,
        )

    def interval(self, variant: Variant, metric: str) -> tuple[float, float]:
        """95 % interval of the variant's own score, over images and seeds; NaN where too few images can be scored."""
        sample, place = self.sample(metric), self.variants.index(variant)
        contrast = Contrast(sample, (place,), self._few(variant, metric))
        if not contrast.defined:
            return np.nan, np.nan
        low, high, _ = contrast.interval(np.sort(np.abs(contrast.replicates())))
        return low, high

    def _few(self, variant: Variant, metric: str) -> int | None:
        count = images_with(variant.runs[0], metric)
        return count if count < FEW_IMAGES else None

    def contrast(self, question: Question) -> "Contrast":
        """The difference that is asked for: network by network where both variants score the same networks."""
        one, other, metric = question.one, question.other, question.metric
        few, shared = self._few(one, metric), _shared_networks(one, other)
        if not shared:
            places = self.variants.index(one), self.variants.index(other)
            return Contrast(self.sample(metric), places, few)
        pairs = [list(runs) for runs in zip(*shared, strict=True)]
        by_seed = scores(pairs[0], metric) - scores(pairs[1], metric)
        resampled = self.resampled(pairs[0], metric) - self.resampled(pairs[1], metric)
        sample = self._sample([by_seed], [resampled], f"{one.label} {other.label} {metric}")
        count = len(shared)
        every = count == len(one.runs) == len(other.runs)
        note = "" if every else f"on the {count} network{'s' * (count > 1)} that both share"
        return Contrast(sample, (0,), few, note)


def find_largest(family: Sequence["Contrast"], resamples: int) -> np.ndarray:
    """Return the largest studentized deviation of the family in each resample, (R,), sorted."""
    largest = np.zeros(resamples)
    for contrast in family:
        if contrast.defined:
            largest = np.fmax(largest, np.abs(contrast.replicates()))
    return np.sort(largest)


def find_critical(largest: np.ndarray) -> float:
    """Return how many standard errors an interval reaches to each side, by what `find_largest` found."""
    return float(largest[-max(int((1 - LEVEL) * (len(largest) + 1)), 1)])


def _shared_networks(one: Variant, other: Variant) -> list[tuple[Run, Run]]:
    """Return the runs that are the same trained networks, by the weights that their summaries speak of."""
    known = {run.summary.weights: run for run in other.runs if run.summary.weights is not None}
    return [(run, known[run.summary.weights]) for run in one.runs if run.summary.weights in known]


@dataclass(frozen=True)
class Sample:
    """A score of V variants, or of one difference: by seed, for the set and for every resample of the images.

    `planned` is the number of seeds that each variant would have if more were trained; None for those that it has.
    """

    by_seed: tuple[np.ndarray, ...]  # V times (S,)
    resampled: tuple[np.ndarray, ...]  # V times (S, R)
    blocks: Blocks
    entropy: tuple[int, int]
    planned: int | None = None

    def with_seeds(self, seeds: int, resamples: int) -> "Sample":
        """Return the sample as if every variant had this many seeds, with only the first of its resamples."""
        return replace(self, planned=seeds, resampled=tuple(each[:, :resamples] for each in self.resampled))

    @property
    def counts(self) -> np.ndarray:
        """(V,) seeds."""
        return np.array([self.planned or len(scores) for scores in self.by_seed])

    @cached_property
    def means(self) -> np.ndarray:
        """(V,) over the seeds."""
        return np.array([scores.mean() for scores in self.by_seed])

    @cached_property
    def deviations(self) -> np.ndarray:
        """(V, R) of the mean over the seeds in every resample from that of the set; NaN where nothing is scored."""
        means = np.array([scores.mean(0) for scores in self.resampled])
        return (means - self.means[:, None]) * self.blocks.inflation**0.5

    @cached_property
    def interactions(self) -> np.ndarray:
        """(V,) variance of a seed's score by what it makes of the images at hand, which the resamples hold already: as
        much as the mean over the seeds varies less with the images than each seed. Of one seed: the others' mean."""
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
        """(V,) what the variance of a mean by its seeds, those there are, and that by the images have in common."""
        count = np.array([len(scores) for scores in self.by_seed])
        return np.where(np.isnan(self.seeds.variances), 0.0, np.nan_to_num(self.interactions) / count)

    @cached_property
    def seeds(self) -> Moderated:
        """What is known of how the scores of seeds vary."""
        own = np.array([len(scores) - 1 if np.isfinite(scores).all() else 0 for scores in self.by_seed])
        variances = [scores.var(ddof=1) if freedom else 0.0 for scores, freedom in zip(self.by_seed, own, strict=True)]
        found = moderate(variances, own)
        return replace(found, own=self.counts - 1) if self.planned else found

    def over_seeds(self, variances: np.ndarray) -> np.ndarray:
        """(V, ...) variance of means over seeds, from (V, ...) of seeds; 0 where nothing is known of it."""
        known = np.where(np.isnan(self.seeds.variances), 0, 1 / self.counts)
        return np.nan_to_num(variances) * known.reshape(-1, *[1] * (variances.ndim - 1))

    @cached_property
    def drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each (V, R): what other seeds would add to a mean; its variance over seeds as it might be found; and standard
        normal draws for how well the images tell their variance."""
        rng = np.random.default_rng(self.entropy)
        shape = self.deviations.shape
        left = (self.over_seeds(self.seeds.variances) - self.over_seeds(self.interactions)).clip(0)
        noise = rng.standard_normal(shape, np.float32) * left[:, None] ** 0.5
        found = self.over_seeds(self.seeds.variances[:, None] * self.seeds.draw(shape[1], rng))
        return noise.astype(np.float32), found.astype(np.float32), rng.standard_normal(shape, np.float32)


@dataclass(frozen=True)
class Contrast:
    """One variant's score, `places` being its place in the sample, or that of one above that of another."""

    sample: Sample
    places: tuple[int, ...]
    few: int | None
    shared: str = ""

    @cached_property
    def estimate(self) -> float:
        """The mean over the seeds."""
        return float(self._between(self.sample.means))

    @property
    def defined(self) -> bool:
        """Whether there is enough to judge."""
        return self.few is None and np.isfinite(self.estimate)

    @property
    def above(self) -> float:
        """Share of pairs of seeds in which the first is above the second, ties by half."""
        one = self.sample.by_seed[self.places[0]]
        other = self.sample.by_seed[self.places[1]] if len(self.places) > 1 else np.zeros(1)
        gaps = np.subtract.outer(one, other)
        return float((gaps > 0).mean() + (gaps == 0).mean() / 2)

    @property
    def knows_seeds(self) -> bool:
        """Whether anything is known of how the scores of its seeds vary."""
        return not np.isnan(self.sample.seeds.variances[list(self.places)]).any()

    @property
    def note(self) -> str:
        """What limits a verdict on this."""
        limits = [self.shared, ONE_SEED if self.defined and not self.knows_seeds else ""]
        return ", ".join(filter(None, limits))

    @cached_property
    def image_variance(self) -> float:
        """Of the score, by the images, without what each seed makes of them: that is in the seeds' variance, too."""
        shared = self.sample.overlaps[list(self.places)].sum()
        return max(float(np.nanvar(self._between(self.sample.deviations)) - shared), 0.0)

    @cached_property
    def deviations(self) -> np.ndarray:
        """(R,) of the score in every resample. More seeds, where planned, average out what each makes of an image."""
        found = self._between(self.sample.deviations)
        if self.sample.planned is None or not np.nanvar(found):
            return found
        left = self.sample.over_seeds(self.sample.interactions)[list(self.places)].sum()
        return found * ((self.image_variance + left) / np.nanvar(found)) ** 0.5

    @cached_property
    def error(self) -> float:
        """Standard error, by images and seeds."""
        seeds = self.sample.over_seeds(self.sample.seeds.variances)[list(self.places)].sum()
        return float(self.image_variance + seeds) ** 0.5

    def replicates(self) -> np.ndarray:
        """(R,) the score's deviation in every resample, with other seeds, over its standard error there."""
        noise, variances, normal = self.sample.drawn
        # Pairs that have a variant in common have part of their images' variance in common.
        drawn = normal[list(self.places)].sum(0) / len(self.places) ** 0.5
        images = self.image_variance * _wilson_hilferty(drawn, self.sample.blocks.freedom)
        error = (images + variances[list(self.places)].sum(0)) ** 0.5
        deviations = self.deviations + self._between(noise)
        return np.divide(deviations, error, out=np.zeros_like(error), where=error > 0)

    def interval(self, largest: np.ndarray, margin: float = 0.0) -> tuple[float, float, float]:
        """Lower and upper end and p-value for a score above `-margin`, by the sorted largest studentized deviations
        (R,) of the family; NaN where there is too little to judge. The p-value is below 5 % where, and only where, the
        interval leaves out `-margin`."""
        if not self.defined:
            return np.nan, np.nan, np.nan
        count = len(largest)
        distance = abs(self.estimate + margin)
        studentized = distance / self.error if self.error else np.inf * bool(distance) if distance else 0.0
        beyond = count - int(np.searchsorted(largest, studentized))
        width = find_critical(largest) * self.error
        return self.estimate - width, self.estimate + width, (beyond + 1) / (count + 1)

    def _between(self, values: np.ndarray) -> np.ndarray:
        return values[self.places[0]] - (values[self.places[1]] if len(self.places) > 1 else 0)


def _wilson_hilferty(normal: np.ndarray, freedom: float) -> np.ndarray:
    """Chi-square over its degrees of freedom, of standard normal draws (Wilson and Hilferty, PNAS 1931)."""
    scale = 2 / (9 * freedom)
    return (1 - scale + normal * scale**0.5).clip(0.05) ** 3
