"""Which differences between two variants are more than noise: of the images that were scored and of the seeds.

The images are resampled as pairs, the same ones for all variants, and the score of the set is recomputed for each
resample (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13). The seeds are nested in
the variants: a resample of two to five of them would say too little (`docs/statistics.md` has the coverage), so they
enter as Student's t of their variance, freed of the share that the images have in it. Two variants that are the same
trained networks, scored in two ways, are compared network by network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segrefine.compare.scores import CLASS, score
from segrefine.compare.variants import Variant
from segrefine.runs.read import Run

ONE_SEED = ", of one seed"
"""Added to a verdict where a side has one seed alone: how much another seed would change is left out of it."""

RESAMPLES = 10_000
LEVEL = 0.95
BLOCK = 1_000
"""Resamples drawn and scored at a time, which bounds the memory for sets of thousands of images."""


@dataclass(frozen=True)
class Difference:
    """How far `one` is above `other` in a score, fractions: the estimate, its 95 % interval, two-sided p-value.

    `p` is that of no difference or, with a `margin`, of `one` being below `other` by just so much. `adjusted_p` is that
    of Holm's correction where several differences are asked for, else p itself. `images` is the number of images that
    the score rests on, where these are so few that some resamples hold none of them.
    """

    one: str
    other: str
    metric: str
    estimate: float
    low: float
    high: float
    p: float
    adjusted_p: float
    seeds: tuple[int, int]
    margin: float = 0.0
    images: int | None = None

    @property
    def shown(self) -> bool:
        """Whether the difference is significantly above or below `-margin` after correction."""
        return self.adjusted_p < 1 - LEVEL and (self.low > -self.margin or self.high < -self.margin)

    @property
    def verdict(self) -> str:
        """The result in plain words, in points (hundredths)."""
        if np.isnan(self.estimate):
            if self.metric.startswith(CLASS):
                return f"not defined: the class {self.metric.removeprefix(CLASS)} never occurs in these images"
            return f"not defined: these images hold nothing to score for {self.metric}"
        low, high = 100 * self.low, 100 * self.high
        if self.margin:
            found = "excluded" if self.low > -self.margin else "shown"
            found = found if self.shown else "neither shown nor excluded"
            words = f"a loss of more than {100 * self.margin:g} points is {found} ({low:+.1f} to {high:+.1f} points)"
        elif not self.shown:
            corrected = " after correction" if low > 0 or high < 0 else ""
            words = f"no difference shown{corrected} ({low:+.1f} to {high:+.1f} points)"
        elif self.estimate > 0:
            words = f"better by {low:.1f} to {high:.1f} points"
        else:
            words = f"worse by {-high:.1f} to {-low:.1f} points"
        few = f", on {self.images} image{'s' * (self.images > 1)} alone" if self.images else ""
        return words + few + ONE_SEED * (min(self.seeds) == 1)


class Bootstrap:
    """Scores of runs over resamples of their images, the same ones for every run; computed once a run and score."""

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self._scores: dict[tuple[Run, str], np.ndarray] = {}
        self._drawn: dict[int, np.ndarray] = {}
        self._sides: dict[tuple[Variant, str], _Side] = {}

    def scores(self, run: Run, metric: str) -> np.ndarray:
        """(resamples,) scores of the run."""
        key = run, metric
        if key not in self._scores:
            weights = self._weights(len(run.images))
            blocks = [weights[start : start + BLOCK].astype(float) for start in range(0, self.resamples, BLOCK)]
            self._scores[key] = np.concatenate([score(run, metric, block) for block in blocks])
        return self._scores[key]

    def _weights(self, count: int) -> np.ndarray:
        """(resamples, count) uint16: how often each of `count` images is drawn in each resample."""
        if count not in self._drawn:
            rng, shares = np.random.default_rng(self.seed), np.full(count, 1 / count)
            sizes = [min(BLOCK, self.resamples - start) for start in range(0, self.resamples, BLOCK)]
            drawn = [rng.multinomial(count, shares, size).astype(np.uint16) for size in sizes]
            self._drawn[count] = np.concatenate(drawn)
        return self._drawn[count]

    def _side(self, variant: Variant, metric: str) -> "_Side":
        key = variant, metric
        if key not in self._sides:
            self._sides[key] = _Side.of(variant, metric, self)
        return self._sides[key]

    def difference(self, one: Variant, other: Variant, metric: str, margin: float = 0.0) -> Difference:
        """How far `one` is above `other`, or no more than `margin` below it."""
        sides = [self._side(variant, metric) for variant in (one, other)]
        difference = sides[0].above(sides[1])
        noise = [difference] if _same_networks(one, other) else sides
        estimate, replicates = difference.estimate, difference.resampled + self._seed_noise(noise)
        replicates = replicates[np.isfinite(replicates)]
        low, high = _interval(replicates)
        tail = min((replicates <= -margin).sum(), (replicates >= -margin).sum())
        p = min(1.0, 2 * (tail + 1) / (len(replicates) + 1))
        seeds = len(one.runs), len(other.runs)
        images = None
        if len(replicates) < self.resamples:
            alone = [score(run, metric, np.eye(len(run.images))) for run in (*one.runs, *other.runs)]
            images = int(np.isfinite(alone).any(0).sum())
        return Difference(one.label, other.label, metric, estimate, low, high, p, p, seeds, margin, images)

    def interval(self, variant: Variant, metric: str) -> tuple[float, float]:
        """95 % interval of the variant's own score, over images and seeds; NaN where there is nothing to score."""
        side = self._side(variant, metric)
        return _interval(side.resampled + self._seed_noise([side]))

    def _seed_noise(self, sides: Sequence["_Side"]) -> np.ndarray:
        """(resamples,) draws of what other seeds would have changed."""
        spread, freedom = _welch(sides)
        if spread == 0:
            return np.zeros(self.resamples)
        return spread * np.random.default_rng((self.seed, 1)).standard_t(freedom, self.resamples)


@dataclass(frozen=True)
class _Side:
    """A variant's score, or how far one is above another: by seed, for the set and for every resample of the images."""

    by_seed: np.ndarray  # (S,)
    resampled_by_seed: np.ndarray  # (S, R)

    @classmethod
    def of(cls, variant: Variant, metric: str, bootstrap: Bootstrap) -> "_Side":
        scores = np.array([score(run, metric) for run in variant.runs])
        return cls(scores, np.array([bootstrap.scores(run, metric) for run in variant.runs]))

    @property
    def estimate(self) -> float:
        """The mean over the seeds."""
        return float(self.by_seed.mean())

    @cached_property
    def resampled(self) -> np.ndarray:
        """(R,) the mean over the seeds for every resample."""
        return self.resampled_by_seed.mean(0)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `variance`."""
        return len(self.by_seed) - 1

    @cached_property
    def variance(self) -> float:
        """Of the mean, as far as it comes of the seeds; 0 where there is but one."""
        count = len(self.by_seed)
        defined = np.isfinite(self.resampled)  # a resample may hold no image of a rare class
        if count == 1 or not defined.any():
            return 0.0
        # Scores of seeds differ by the seeds, and by what each made of the images at hand; that second part is in
        # the resamples already: as much as the mean over seeds varies less with the images than each seed.
        by_seed, mean = self.resampled_by_seed[:, defined], self.resampled[defined]
        share = (by_seed.var(1).mean() - mean.var()) * count / (count - 1)
        return max(float(self.by_seed.var(ddof=1) - share), 0.0) / count

    def above(self, other: "_Side") -> "_Side":
        """How far this one is above the other: seed by seed where they have as many, else their means."""
        if len(self.by_seed) == len(other.by_seed):
            return _Side(self.by_seed - other.by_seed, self.resampled_by_seed - other.resampled_by_seed)
        return _Side(np.array([self.estimate - other.estimate]), (self.resampled - other.resampled)[None])


def _interval(replicates: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of those of the replicates that are defined; NaN if none is."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return np.nan, np.nan
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _same_networks(one: Variant, other: Variant) -> bool:
    """Whether both are the same trained networks, by the weights that their summaries speak of."""
    weights = [[run.summary.weights for run in variant.runs] for variant in (one, other)]
    return weights[0] == weights[1] and None not in weights[0]


def _welch(sides: Sequence[_Side]) -> tuple[float, float]:
    """Standard error by the seeds of all sides together, and its degrees of freedom (Welch, Biometrika 1947)."""
    total = sum(side.variance for side in sides)
    if total == 0:
        return 0.0, 1.0
    return total**0.5, total**2 / sum(side.variance**2 / side.freedom for side in sides if side.freedom)


def correct(differences: Sequence[Difference]) -> list[Difference]:
    """With p-values adjusted for their number by Holm's method (Scandinavian Journal of Statistics, 1979)."""
    order = sorted(range(len(differences)), key=lambda index: differences[index].p)
    adjusted, largest = dict.fromkeys(order, 1.0), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, differences[index].p * (len(order) - rank)))
        adjusted[index] = largest
    return [replace(difference, adjusted_p=adjusted[index]) for index, difference in enumerate(differences)]
