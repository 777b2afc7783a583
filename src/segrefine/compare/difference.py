"""The difference between the scores of two variants, and its verdict."""

from dataclasses import dataclass

import numpy as np

from segrefine.compare.scores import CLASS

EQUIVALENCE = 1.0
"""Points within which variants count as practically equal."""

FEW_IMAGES = 10
"""With fewer images, or fewer that contain the class, nothing is decided. Their resamples say too little about other
images (`docs/statistics.md`)."""


@dataclass(frozen=True)
class Difference:
    """How far `one` is above `other` in a score, with a 95 % interval that holds for the family as a whole.

    All values are fractions. The p-value, for the whole family, is of no difference or, with a `margin`, of `one` being
    below `other` by exactly the margin.
    """

    one: str
    other: str
    metric: str
    estimate: float
    low: float
    high: float
    p: float
    above: float  # fraction of the pairs of seeds in which `one` is above; ties count half
    seeds: tuple[int, int]  # the number of each
    margin: float = 0.0
    equivalence: float = EQUIVALENCE / 100  # smaller differences do not matter in practice
    few: int | None = None  # the images that the score rests on, if these are too few; interval and p are then NaN
    note: str = ""  # what else limits the verdict, such as `of one seed`
    needed: int | None = None  # seeds of each that would probably decide it; 0 if they alone would not; None: not asked

    @property
    def shown(self) -> bool:
        """Whether the whole interval lies above or below `-margin`. Verdicts rest on this alone."""
        return self.low > -self.margin or self.high < -self.margin

    @property
    def outcome(self) -> str:
        """The outcome: `better`, `worse`, `equal` (practically), `undecided` or `not defined`."""
        if np.isnan(self.estimate):
            return "not defined"
        if self.low >= -self.equivalence and self.high <= self.equivalence:
            return "equal"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    @property
    def can_be_planned(self) -> bool:
        """Whether the next question would be how many more seeds are needed."""
        return self.outcome == "undecided" and self.few is None and not self.margin

    @property
    def verdict(self) -> str:
        """The verdict as text, in points (hundredths)."""
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
        probably = f": {self.needed} seeds of each would probably decide"
        outlook = {None: "", 0: ": more seeds alone would hardly decide"}.get(self.needed, probably)
        return {
            "better": f"better by {low:.1f} to {high:.1f} points",
            "worse": f"worse by {-high:.1f} to {-low:.1f} points",
            "equal": f"practically equal {interval}",
            "undecided": f"undecided {interval}{outlook}",
        }[self.outcome]
