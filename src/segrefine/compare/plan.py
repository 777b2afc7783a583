"""Estimate how many seeds a comparison needs, from the seeds that it has.

A difference is found if its interval excludes zero. A difference of (critical value + 0.84) standard errors is
therefore found in 80 % of cases. More seeds reduce the part of the standard error that comes from the seeds, but not
the part that comes from the images. They also reduce the critical value, since they show their own variance better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from segrefine.compare.contrast import find_critical, find_largest
from segrefine.compare.difference import Difference
from segrefine.compare.statistics import Bootstrap, Question

POWER = 0.8
SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
"""The numbers of seeds to try."""

RESAMPLES = 2_000
"""Resamples for critical values, which are then accurate to about 3 %."""


@dataclass(frozen=True)
class Plan:
    """The power of a comparison with `seeds` seeds of every variant: what it would find in 80 % of cases, in points."""

    seeds: int
    typical: float  # the smallest difference that the median pair would show
    worst: float  # the smallest difference that every pair would show
    decided: int  # pairs, undecided now, that would be decided if they keep their present differences


class Planner:
    """Forecast the answers to one family of questions. Skips questions whose variance between seeds is unknown."""

    def __init__(self, bootstrap: Bootstrap, questions: Sequence[Question]) -> None:
        found = [bootstrap.contrast(question) for question in questions]
        self.places = [place for place, contrast in enumerate(found) if contrast.defined and contrast.knows_seeds]
        self.contrasts = [found[place] for place in self.places]
        self.resamples = min(RESAMPLES, bootstrap.settings.resamples)
        self._reach: dict[int, np.ndarray] = {}

    def reach(self, seeds: int) -> np.ndarray:
        """Return the smallest difference, a fraction, that each question would find with this many seeds of each."""
        if seeds not in self._reach:
            samples = {id(contrast.sample): contrast.sample for contrast in self.contrasts}
            later = {key: sample.with_seeds(seeds, self.resamples) for key, sample in samples.items()}
            planned = [replace(contrast, sample=later[id(contrast.sample)]) for contrast in self.contrasts]
            critical = find_critical(find_largest(planned, self.resamples))
            self._reach[seeds] = (critical + ndtri(POWER)) * np.array([contrast.error for contrast in planned])
        return self._reach[seeds]

    def decides(self, found: Sequence[Difference], seeds: int) -> np.ndarray:
        """Return whether this many seeds would decide each question, if the differences are those found."""
        estimates = np.abs([found[place].estimate for place in self.places])
        equal = estimates + self.reach(seeds) <= [found[place].equivalence for place in self.places]
        return (estimates >= self.reach(seeds)) | equal

    def seeds_needed(self, found: Sequence[Difference]) -> list[Difference]:
        """Return the differences. Undecided ones get the number of seeds that would probably decide them."""
        answers = list(found)
        open_ones = [at for at, place in enumerate(self.places) if found[place].can_be_planned]
        decided = {seeds: self.decides(found, seeds) for seeds in SEEDS} if open_ones else {}
        for at in open_ones:
            entry = found[self.places[at]]
            more = [seeds for seeds in SEEDS if seeds > max(entry.seeds) and decided[seeds][at]]
            answers[self.places[at]] = replace(entry, needed=more[0] if more else 0)
        return answers

    def plan(self, found: Sequence[Difference]) -> list[Plan]:
        """Return what each number of seeds would find."""
        if not self.contrasts:
            return []
        undecided = np.array([found[place].can_be_planned for place in self.places])
        return [
            Plan(
                seeds,
                100 * float(np.median(self.reach(seeds))),
                100 * float(self.reach(seeds).max()),
                int((undecided & self.decides(found, seeds)).sum()),
            )
            for seeds in SEEDS
        ]
