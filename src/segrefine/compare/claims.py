"""Test claims: which variants should score above which others, and what the runs show.

A file such as `experiments/claims.yml` lists the claims in the order of the table, numbered by their folders. Their
results lie beside it in `results/SET/NAME_seedN/`, which holds the small files of a run. Each claim gets a folder with
a README.md and plots. The README.md beside the file gets a table of all claims.
"""

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from segrefine.compare import tables
from segrefine.compare.claim import Claim, Expectation, read_claims
from segrefine.compare.contrast import ONE_SEED
from segrefine.compare.costs import cost_plot, cost_table, describe_costs, judge_costs, read_measurements
from segrefine.compare.difference import Difference
from segrefine.compare.figures import save_figure
from segrefine.compare.folds import merge_folds
from segrefine.compare.plan import Planner
from segrefine.compare.plots import PLOTS, difference_bars, have_curves
from segrefine.compare.scores import check_metric
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import Variant, check_same_images
from segrefine.core.errors import UserError
from segrefine.io.atomic import write_text
from segrefine.runs.read import read_run

log = logging.getLogger(__name__)

BEGIN, END = "<!-- verdicts: python compare.py claims=experiments/claims.yml -->", "<!-- end of verdicts -->"


def outcome(found: Difference) -> str:
    """Return `as claimed`, `the other way` or `not shown`, of a claim that the first variant is above the second.

    With a margin, the claim is that it is not below it by more.
    """
    if not found.shown:
        return "not shown"
    return "as claimed" if found.low > -found.margin else "the other way"


def write_claims(path: Path, settings: Settings) -> None:
    """Regenerate everything that follows from the claims in the file at `path` and the results beside it."""
    rows = []
    for claim in read_claims(path):
        rows += (written := _write_claim(path.parent, claim, settings))
        log.info(f"{claim.number}. {claim.title}: {'; '.join(f'{row[-1]} (on {row[2]})' for row in written)}")
    columns = ("", "claim", "on", "seeds", "differences in points, with 95 % intervals", "verdict")
    table = tables.new_table(columns, rows)
    readme = path.parent / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{readme} has no lines {BEGIN} and {END}, between which the table belongs.")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    write_text(readme, f"{before}\n{tables.to_markdown(table)}{after}")
    write_text(path.parent / "verdicts.csv", tables.to_csv(table))
    log.info(f"the verdicts are in {readme}")


_read_once = cache(read_run)  # many claims share runs, and what was resampled of them
_merge_once = cache(lambda *runs: merge_folds(runs))


def read_results(folder: Path, names: Sequence[str]) -> dict[str, Variant]:
    """Return the variants called `names` that have runs in `folder/NAME_seedN/` or `folder/NAME_foldK_seedN/`."""
    found = {}
    for name in names:
        own = re.compile(rf"{re.escape(name)}(_fold\d+)?_seed\d+")
        folders = sorted(path for path in folder.iterdir() if own.fullmatch(path.name)) if folder.is_dir() else []
        if folders:
            runs = _merge_once(*map(_read_once, folders))
            found[name] = Variant(name, tuple(sorted(runs, key=lambda run: run.seed or 0)))
    return found


def _write_claim(top: Path, claim: Claim, settings: Settings) -> list[tuple[str, ...]]:
    """Write the claim's folder and return its rows of the table of verdicts, one for each set of results."""
    folder = top / claim.folder
    parts: list[str] = []
    rows: list[tuple[str, ...]] = []
    title = f"[{claim.title}]({claim.folder}/README.md)"
    sections = [_compare_costs(folder, claim.costs)] if claim.costs else []
    sections += [_compare_scores(top, claim, name, settings) for name in claim.tests]
    for section in sections:
        rows.append((str(claim.number), title, section.name, section.seeds, section.summary, section.verdict))
        parts += [f"## {section.name}\n", f"**{section.verdict}**\n", *map(tables.to_markdown, section.shown)]
        for name, figure in section.figures.items():
            file = folder / f"{section.name}_{name}.png"
            save_figure(figure, file)
            parts.append(f"![{name.replace('_', ' ')}, {section.name}]({file.name})\n")
    readme = os.path.relpath(top / "README.md", folder)
    words = f"[experiments/README.md]({readme}) explains the verdicts, scores and intervals.\n"
    head = [f"# {claim.number}. {claim.title}\n", f"{claim.question}\n", f"Source: {claim.source}\n", words]
    method = ["```\n" + claim.method.strip() + "\n```\n"]
    remarks = [f"## Remarks\n\n{claim.remarks.strip()}\n"] if claim.remarks else []
    write_text(folder / "README.md", "\n".join([*head, *method, *parts, *remarks]))
    return rows


@dataclass(frozen=True)
class Section:
    """The result of a claim on one set of results."""

    name: str
    seeds: str
    summary: str
    verdict: str
    shown: Sequence[pd.DataFrame] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)


def _compare_costs(folder: Path, networks: Sequence[str]) -> Section:
    measured = read_measurements(folder, networks)
    if not measured:
        return Section("costs", "", "", "not run yet")
    figures = {"ratios": cost_plot(measured, networks)}
    shown = [cost_table(measured, networks)]
    return Section("costs", "", describe_costs(measured, networks), judge_costs(measured), shown, figures)


def _compare_scores(top: Path, claim: Claim, name: str, settings: Settings) -> Section:
    """Run the claim's tests on the set of results called `name`."""
    wanted = claim.tests[name]
    variants = read_results(top / "results" / name, list(dict.fromkeys(one for test in wanted for one in test.pair)))
    possible = [test for test in wanted if all(one in variants for one in test.pair)]
    if not possible:
        return Section(name, "", "", "not run yet")
    check_same_images([run for variant in variants.values() for run in variant.runs])
    bootstrap = Bootstrap(list(variants.values()), settings=settings)
    found, shown = run_tests(possible, variants, bootstrap), list(variants.values())
    seeds = sorted({count for entry in found for count in entry.seeds})
    missing = f" ({len(wanted) - len(found)} not run yet)" if len(found) < len(wanted) else ""
    one_seed = f", {ONE_SEED}" * any(ONE_SEED in entry.note for entry in found)
    figures = {"differences": difference_bars(found)}
    plots = [plot for plot in claim.plots if plot != "learning_curves" or have_curves(shown)]
    figures |= {plot: PLOTS[plot](shown, bootstrap) for plot in plots}
    return Section(
        name,
        " to ".join(map(str, seeds)),
        "; ".join(map(describe, found)),
        judge(found, shown) + missing + one_seed,
        [tables.differences(found), tables.overview(shown)],
        figures,
    )


def run_tests(wanted: Sequence[Expectation], variants: Mapping[str, Variant], bootstrap: Bootstrap) -> list[Difference]:
    """Run the tests of a claim as one family."""
    questions = []
    for test in wanted:
        one, other = (variants[name] for name in test.pair)
        for run in (*one.runs, *other.runs):
            check_metric(test.metric, run)
        questions.append(Question(one, other, test.metric, test.margin / 100))
    return Planner(bootstrap, questions).seeds_needed(bootstrap.differences(questions))


def describe(found: Difference) -> str:
    """Return `fcn8s over fcn16s: +2.1 (+1.0 to +3.2)`, with the score unless it is mIoU, and any margin."""
    metric = "" if found.metric == "mIoU" else f" in {found.metric}"
    pair = f"{found.one} over {found.other}{metric}"
    if math.isnan(found.low):
        return f"{pair}: {found.verdict}"
    low, high = 100 * found.low, 100 * found.high
    margin = f", claimed: above {-100 * found.margin:g}" if found.margin else ""
    return f"{pair}: {100 * found.estimate:+.1f} ({low:+.1f} to {high:+.1f}{margin})"


def judge(found: Sequence[Difference], variants: Sequence[Variant]) -> str:
    """Return whether a claim holds by its tests, and why networks of `variants` leave tests undecided."""
    trained = {variant.label for variant in variants if variant.gain is not None and not variant.still_learning}
    outcomes = [outcome(entry) if {entry.one, entry.other} <= trained else "not decided" for entry in found]
    reason = f": {describe_training(variants)}" if "not decided" in outcomes else ""
    return sum_up(outcomes) + reason


def sum_up(outcomes: Sequence[str]) -> str:
    """Return whether a claim whose tests came out like this holds, does not hold or holds in part."""
    if len(set(outcomes)) == 1:
        return {"as claimed": "holds", "the other way": "the opposite holds"}.get(outcomes[0], outcomes[0])
    counts = {word: outcomes.count(word) for word in ("as claimed", "not shown", "the other way", "not decided")}
    return "in part: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def describe_training(variants: Sequence[Variant]) -> str:
    """Return how many networks were still learning, or that nobody knows, so that their tests decide nothing."""
    known = [variant for variant in variants if variant.gain is not None]
    learning = sum(variant.still_learning for variant in known)
    if learning:
        return f"{learning} of {len(known)} networks {'was' if learning == 1 else 'were'} still learning"
    return "networks may still have been learning"
