"""Find which differences between variants are more than noise, both of the scored images and of the seeds.

The images are resampled as pairs, the same ones for all variants, and the score of the set is recomputed for each
resample (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13). The seeds enter through
their variance. It is moderated over the variants, and the part that the images contribute is removed. All requested
differences get intervals that hold together, from the largest studentized difference of every resample (max-t: Westfall
and Young, "Resampling-Based Multiple Testing", 1993). `docs/statistics.md` says how well that works.

Shapes: V variants, S seeds of a variant, R resamples, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np

from segrefine.compare.contrast import Contrast, Sample, find_largest
from segrefine.compare.difference import EQUIVALENCE, FEW_IMAGES, Difference
from segrefine.compare.resampling import Blocks, choose_blocks
from segrefine.compare.scores import images_with, least_possible, scores
from segrefine.compare.variants import Variant
from segrefine.core.frames import find_frame
from segrefine.runs.read import Run

RESAMPLES = 10_000


@dataclass(frozen=True)
class Settings:
    """How variants are compared.

    Attributes:
        resamples: the number of resamples of the images.
        seed: of the resamples.
        block_length: images of a block; None to choose it from the data.
        equivalence: points within which variants count as practically equal.
        plan: whether to report what more seeds would find.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    block_length: int | None = None
    equivalence: float = EQUIVALENCE
    plan: bool = False


@dataclass(frozen=True)
class Question:
    """Is `one` above `other` in a score or, with a margin (a fraction), not below it by more than that?"""

    one: Variant
    other: Variant
    metric: str = "mIoU"
    margin: float = 0.0


class Bootstrap:
    """Scores of variants over resamples of their images, the same ones for every run, and what follows from them.

    Args:
        variants: all scored on the same images.
        metric: if images form sequences, the differences in this score determine the length of blocks.
        settings: see `Settings`.
    """

    def __init__(self, variants: Sequence[Variant], metric: str = "mIoU", settings: Settings | None = None) -> None:
        self.variants, self.settings = tuple(variants), settings or Settings()
        self._samples: dict[str, Sample] = {}
        self._contrasts: dict[Question, Contrast] = {}
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
        """Return the scores of the runs in each resample, (runs, R) float32."""
        return scores(runs, metric, self._weights).astype(np.float32)

    def sample(self, metric: str) -> Sample:
        """Return the scores of all variants, computed once for each metric."""
        if metric not in self._samples:
            runs = [run for variant in self.variants for run in variant.runs]
            ends = np.cumsum([len(variant.runs) for variant in self.variants])[:-1]
            by_seed, resampled = np.split(scores(runs, metric), ends), np.split(self.resampled(runs, metric), ends)
            self._samples[metric] = self._sample(by_seed, resampled, metric, _have_own_networks(self.variants))
        return self._samples[metric]

    def _sample(
        self, by_seed: Sequence[np.ndarray], resampled: Sequence[np.ndarray], name: str, counted: Sequence[bool]
    ) -> Sample:
        # Draws of their own for every score, as what seeds do to one class tells little of what they do to another.
        entropy = self.settings.seed, crc32(name.encode())
        return Sample(tuple(by_seed), tuple(resampled), self.blocks, entropy, tuple(counted))

    def difference(self, one: Variant, other: Variant, metric: str = "mIoU", margin: float = 0.0) -> Difference:
        """Answer a single `Question` as a family of its own."""
        return self.differences([Question(one, other, metric, margin)])[0]

    def differences(self, questions: Sequence[Question]) -> list[Difference]:
        """Answer the questions as one family: in 95 % of cases, all intervals contain the truth at once."""
        found = [self.contrast(question) for question in questions]
        largest = find_largest(found, self.settings.resamples)
        return [self._answer(*each, largest) for each in zip(questions, found, strict=True)]

    def _answer(self, question: Question, contrast: Contrast, largest: np.ndarray) -> Difference:
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
        """Return the 95 % interval of the variant's own score, over images and seeds; NaN with too few images."""
        sample, place = self.sample(metric), self.variants.index(variant)
        contrast = Contrast(sample, (place,), self._few(variant, metric))
        if not contrast.defined:
            return np.nan, np.nan
        low, high, _ = contrast.interval(np.sort(np.abs(contrast.replicates())))
        return max(low, least_possible(variant.runs[0], metric)), min(high, 1.0)  # NaN stays NaN

    def _few(self, variant: Variant, metric: str) -> int | None:
        count = images_with(variant.runs[0], metric)
        return count if count < FEW_IMAGES else None

    def contrast(self, question: Question) -> Contrast:
        """Return the contrast of a question, computed once: network by network where both sides score the same ones."""
        if question not in self._contrasts:
            self._contrasts[question] = self._contrast(question)
        return self._contrasts[question]

    def _contrast(self, question: Question) -> Contrast:
        one, other, metric = question.one, question.other, question.metric
        few, shared = self._few(one, metric), _shared_networks(one, other)
        if not shared:
            places = self.variants.index(one), self.variants.index(other)
            return Contrast(self.sample(metric), places, few)
        pairs = [list(runs) for runs in zip(*shared, strict=True)]
        by_seed = scores(pairs[0], metric) - scores(pairs[1], metric)
        resampled = self.resampled(pairs[0], metric) - self.resampled(pairs[1], metric)
        sample = self._sample([by_seed], [resampled], f"{one.label} {other.label} {metric}", [True])
        count = len(shared)
        every = count == len(one.runs) == len(other.runs)
        note = "" if every else f"on the {count} network{'s' * (count > 1)} that both share"
        return Contrast(sample, (0,), few, note)


def _shared_networks(one: Variant, other: Variant) -> list[tuple[Run, Run]]:
    """Return pairs of runs with the same trained network, according to the weights that their summaries name."""
    known = {run.summary.weights: run for run in other.runs if run.summary.weights is not None}
    return [(run, known[run.summary.weights]) for run in one.runs if run.summary.weights in known]


def _have_own_networks(variants: Sequence[Variant]) -> list[bool]:
    """Return whether each variant has networks of its own, not those of an earlier one scored in another way."""
    seen: set[str] = set()
    found = []
    for variant in variants:
        weights = {run.summary.weights for run in variant.runs if run.summary.weights is not None}
        found.append(weights.isdisjoint(seen))
        seen |= weights
    return found


def find_sequences(run: Run) -> tuple[np.ndarray, ...]:
    """Return the indices of the images of each sequence in its order; an image of no sequence is one by itself."""
    options = run.config.get("datamodule", {})
    members: dict[object, list[tuple[int, int]]] = {}
    for index, image in enumerate(run.images):
        name, position = find_frame(image, options) or ((index,), 0)
        members.setdefault(name, []).append((position, index))
    return tuple(np.array([index for _, index in sorted(each)]) for each in members.values())
