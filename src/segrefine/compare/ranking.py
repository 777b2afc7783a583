"""Rank variants from best to worst, and answer the comparison in a few sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np

from segrefine.compare.difference import Difference
from segrefine.compare.scores import mean_score
from segrefine.compare.statistics import Bootstrap
from segrefine.compare.variants import Variant
from segrefine.core.errors import listing

TOLD_APART = ("better", "worse")


@dataclass(frozen=True)
class Ranked:
    """A variant with its mean score over the seeds and its 95 % interval, as fractions; NaN where undefined."""

    variant: Variant
    score: float
    low: float
    high: float
    letters: str  # two variants that share one are not told apart; empty unless every pair was compared


def rank_variants(bootstrap: Bootstrap, metric: str, found: Sequence[Difference]) -> list[Ranked]:
    """Return the variants of the comparison, the highest score first."""
    means = [mean_score(variant.runs, metric) for variant in bootstrap.variants]
    order = sorted(range(len(means)), key=lambda place: (np.isnan(means[place]), -means[place]))
    variants = [bootstrap.variants[place] for place in order]
    letters = [""] * len(order)
    if len(order) > 1 and len(found) == len(order) * (len(order) - 1) / 2:
        names = [variant.label for variant in variants]
        apart = [(names.index(one.one), names.index(one.other)) for one in found if one.outcome in TOLD_APART]
        letters = group_letters(len(order), apart)
    return [
        Ranked(variant, means[place], *bootstrap.interval(variant, metric), letter)
        for variant, place, letter in zip(variants, order, letters, strict=True)
    ]


def group_letters(count: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """Return the compact letter display of `count` items, in which the pairs `apart` share no letter.

    Method: insertion and absorption (Piepho, "An algorithm for a letter-based representation of all-pairwise
    comparisons", Journal of Computational and Graphical Statistics 2004).
    """
    groups = [frozenset(range(count))]
    for one, other in apart:
        split = [
            part
            for group in groups
            for part in ([group - {one}, group - {other}] if {one, other} <= group else [group])
        ]
        unique = list(dict.fromkeys(split))
        groups = [group for group in unique if not any(group < larger for larger in unique)]
    groups.sort(key=sorted)
    return ["".join(_letter(place) for place, group in enumerate(groups) if item in group) for item in range(count)]


def _letter(place: int) -> str:
    repeats, place = divmod(place, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(repeats + 1) if repeats else "")


def answer(ranking: Sequence[Ranked], metric: str, found: Sequence[Difference], baseline: str | None) -> list[str]:
    """Return sentences on what was found and what was not; none for a single variant."""
    if not found:
        return []
    if np.isnan(ranking[0].score):  # of no variant
        return [f"{metric} is {found[0].verdict}."]
    name = ranking[0].variant.label
    if baseline is None:
        mine = [_from(name, one) for one in found if name in (one.one, one.other)]
        first = f"{name} has the highest {metric}. {_describe_best(mine)}"
    else:
        first = f"Against {baseline}: {_describe_baseline(found)}"
    return [sentence for sentence in (first, _describe_rest(found)) if sentence]


def _from(name: str, found: Difference) -> tuple[str, str, float]:
    """Return the other variant, the outcome from the side of `name`, and the least it is ahead by, in points."""
    if found.one == name:
        return found.other, found.outcome, 100 * found.low
    turned = {"better": "worse", "worse": "better"}
    return found.one, turned.get(found.outcome, found.outcome), -100 * found.high


def _describe_best(mine: Sequence[tuple[str, str, float]]) -> str:
    behind = [least for _, outcome, least in mine if outcome == "better"]
    equal = [other for other, outcome, _ in mine if outcome == "equal"]
    open_ones = [other for other, outcome, _ in mine if outcome not in ("better", "equal")]
    if len(behind) == len(mine):
        others = f"each of the other {len(mine)}" if len(mine) > 1 else mine[0][0]
        return f"It is better than {others}, by at least {min(behind):.1f} points."
    words = [f"better than {len(behind)} of the other {len(mine)}"] if behind else []
    words += [f"practically equal to {listing(equal, 3)}"] if equal else []
    words += [f"not told apart from {listing(open_ones, 3)}"] if open_ones else []
    return f"It is {', '.join(words[:-1]) + ' and ' if len(words) > 1 else ''}{words[-1]}."


def _describe_baseline(found: Sequence[Difference]) -> str:
    words = []
    for outcome, text in (("better", "better"), ("equal", "practically equal"), ("worse", "worse")):
        names = [one.one for one in found if one.outcome == outcome]
        words += [f"{listing(names, 3)} {'is' if len(names) == 1 else 'are'} {text}"] if names else []
    return f"{'; '.join(words)}." if words else "no variant is shown to be better or worse."


def _describe_rest(found: Sequence[Difference]) -> str:
    """Return how many pairs are decided, and how many seeds would decide more; of one pair the latter alone."""
    counts = {
        "told apart": sum(one.outcome in TOLD_APART for one in found),
        "practically equal": sum(one.outcome == "equal" for one in found),
        "undecided": sum(one.outcome in ("undecided", "not defined") for one in found),
    }
    words = [f"{count} {'is' if count == 1 else 'are'} {name}" for name, count in counts.items() if count]
    needed = sorted(one.needed for one in found if one.needed)
    if len(found) == 1:
        return f"{needed[-1]} seeds of each would probably decide." if needed else ""
    more = f" {needed[-1]} seeds of each would probably decide {len(needed)} of the undecided." if needed else ""
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"Of {len(found)} pairs, {listed}.{more}"
