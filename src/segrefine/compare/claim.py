"""Read claims: which variants should score above which others, from a file such as `experiments/claims.yml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from segrefine.compare.plots import PLOTS
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.options import NonNegative, make_options


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """That the first variant of a pair scores above the second, or is not below it by more than a margin.

    Attributes:
        pair: names of two variants.
        metric: the score.
        margin: in points.
    """

    pair: Sequence[str]
    metric: str = "mIoU"
    margin: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and what tests it.

    Attributes:
        folder: of its page, below that of the file; its name starts with the claim's number.
        title, source, question, remarks: words for the page.
        method: the commands of the runs.
        tests: set of results -> what is expected on it.
        costs: two networks whose measured costs are compared.
        plots: names of `PLOTS`, drawn for each set.
    """

    folder: str
    title: str
    source: str
    question: str
    method: str
    tests: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[str] = ()
    plots: Sequence[str] = ()
    remarks: str = ""

    @property
    def number(self) -> int:
        return int(Path(self.folder).name.split("_")[0])


def read_claims(path: Path) -> list[Claim]:
    """Return the claims of a YAML file, in its order.

    Raises:
        UserError: the file cannot be read, or a claim lacks something or has something unknown.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"claims={path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"claims={path} is broken: {error}") from error
    if not isinstance(content, list) or not all(isinstance(claim, dict) for claim in content):
        raise UserError(f"claims={path} should be a list of claims.")
    return [_make_claim(given, f"claims={path}: claim {place}") for place, given in enumerate(content, 1)]


def _make_claim(given: Mapping[str, Any], where: str) -> Claim:
    claim = make_options(Claim, given, where, f"{where}: ")
    name = Path(claim.folder).name
    if not name.split("_")[0].isdecimal():
        raise UserError(f"{where}: folder={claim.folder} should start with the claim's number, such as 01_{name}.")
    for plot in claim.plots:
        if plot not in PLOTS:
            raise UserError(f"{where} has no plot {plot!r}.{did_you_mean(plot, PLOTS)}")
    tests = {}
    for results, expected in claim.tests.items():
        place = f"{where}, tests.{results}"
        if not isinstance(expected, list) or not all(isinstance(one, dict) for one in expected):
            raise UserError(f"{place} should be a list such as [{{pair: [fcn8s, fcn16s]}}].")
        tests[results] = [make_options(Expectation, one, place, f"{place}: ") for one in expected]
        if wrong := [one.pair for one in tests[results] if len(one.pair) != 2]:
            raise UserError(f"{place}: pair={list(wrong[0])} should name two variants.")
    return replace(claim, tests=tests)
