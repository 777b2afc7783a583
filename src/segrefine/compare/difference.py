"""How far one variant is above another, and the verdict on that."""

from dataclasses import dataclass

import numpy as np

from segrefine.compare.scores import CLASS

EQUIVALENCE = 1.0
"""Points within which variants count as practically equal."""

FEW_IMAGES = 10
"""Fewer images, or fewer that hold the class, decide nothing: a resample of them says too little of others
(`docs/statistics.md`)."""


@dataclass(frozen=True)
class Difference:
    """How far `one` is above `other` in a score, fractions, with a 95 % interval that holds for a family as a whole.

    Attributes:
        p: of no difference or, with a `margin`, of `one` being below `other` by just so much; for the whole family.
        above: share of the pairs of a seed of each in which `one` is above, ties by half.
        seeds: of the two.
        equivalence: below this, a difference makes no odds.
        few: the number of images that the score rests on, where these are too few; interval and p are NaN then.
        note: what else limits the verdict, such as `of one seed`.
        needed: seeds of each that would probably decide it, 0 if images rather than seeds are too few; None: not asked.
    """

    one: str
    other: str
    metric: str
    estimate: float
    low: float
    high: float
    p: float
    above: float
    seeds: tuple[int, int]
    margin: float = 0.0
    equivalence: float = EQUIVALENCE / 100
    few: int | None = None
    note: str = ""
    needed: int | None = None

    @property
    def shown(self) -> bool:
        """Whether the interval lies above or below `-margin` as a whole, the only thing that verdicts rest on."""
        return self.low > -self.margin or self.high < -self.margin

    @property
    def outcome(self) -> str:
        """`better`, `worse`, `equal` (practically), `undecided` or `not defined`."""
        if np.isnan(self.estimate):
            return "not defined"
        if self.low >= -self.equivalence and self.high <= self.equivalence:
            return "equal"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    @property
    def can_be_planned(self) -> bool:
        """Whether more seeds are what a reader would ask for next."""
        return self.outcome == "undecided" and self.few is None and not self.margin

    @property
    def verdict(self) -> str:
        """Return the verdict as text, in points (hundredths)."""
        if np.isnan(self.estimate):
            if self.metric.startswith(CLASS):
                return f"not defined: the class {self.metric.removeprefix(CLASS)} never occurs in these images"
            return f"not defined: these images hold nothing to score for {self.metric}"
        if self.few is not None:
            images = f"{self.few} image{'s' * (self.few != 1)}"
            what = {"mIoU": ""}.get(self.metric, f" with something to score for {self.metric}")
            if self.metric.startswith(CLASS):
                what = f" with the class {self.metric.removeprefix(CLASS)}"
            return f"undecided: only {images}{what}"
        return self._words() + (f", {self.note}" if self.note else "")

    def _words(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        interval = f"({low:+.1f} to {high:+.1f} points)"
        if self.margin:
            found = "excluded" if self.low > -self.margin else "shown"
            found = found if self.shown else "neither shown nor excluded"
            return f"a loss of more than {100 * self.margin:g} points is {found} {interval}"
        return {
            "better": f"better by {low:.1f} to {high:.1f} points",
            "worse": f"worse by {-high:.1f} to {-low:.1f} points",
            "equal": f"practically equal {interval}",
            "undecided": f"undecided {interval}{self._outlook}",
        }[self.outcome]

    @property
    def _outlook(self) -> str:
        if self.needed is None:
            return ""
        if self.needed:
            return f": {self.needed} seeds of each would probably decide"
        return ": more seeds alone would hardly decide"
