"""Make the tables of a comparison, as pandas DataFrames of text, and format them as Markdown, LaTeX and CSV."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from segrefine.compare.difference import Difference
from segrefine.compare.plan import Plan
from segrefine.compare.scores import CLASS, score
from segrefine.compare.variants import Variant
from segrefine.metrics.scores import SCORES


def new_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> pd.DataFrame:
    """Return the rows as a DataFrame of text."""
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object)


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, for which pandas would need another package."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False, name=None)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """Return the table in LaTeX for the booktabs package."""
    columns = "l" + "r" * (len(table.columns) - 1)
    return table.to_latex(index=False, escape=True, column_format=columns).replace("±", r"$\pm$")


def to_csv(table: pd.DataFrame) -> str:
    """Return the table as CSV, with the same line endings on every system."""
    return table.to_csv(index=False, lineterminator="\n")


def overview(variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the scores of every variant, with mean and deviation over the seeds, and its costs."""
    rows = []
    for variant in variants:
        runs, summary = variant.runs, variant.summary
        row = {"variant": variant.label, "backbone": summary.backbone, "seeds": str(len(runs))}
        row |= {name: mean_and_deviation([score(run, name) for run in runs]) for name in (*SCORES, "worst_10")}
        row |= {"gain of the last fifth": "not known" if variant.gain is None else f"{variant.gain:+.3f}"}
        row |= {"parameters (M)": f"{summary.params / 1e6:.2f}"}
        row |= {f"multiply-adds (G, {_size(variants)})": f"{summary.flops / 1e9:.2f}"}
        row |= {"images/s": _mean([run.summary.images_per_second for run in runs], 1, 1)}
        row |= {"peak memory (MiB)": _mean([run.summary.peak_memory_bytes for run in runs], 2**20, 0)}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def per_class(variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the IoU of every class, with mean and deviation over the seeds."""
    rows = []
    for name in variants[0].runs[0].classes:
        values = [[score(run, f"{CLASS}{name}") for run in variant.runs] for variant in variants]
        rows.append((name, *map(mean_and_deviation, values)))
    return new_table(("class", *(variant.label for variant in variants)), rows)


def differences(found: Sequence[Difference]) -> pd.DataFrame:
    """Return the results of `Bootstrap.differences`, in points."""
    columns = ("variant", "against", "score", "difference", "95 % interval", "p", "P(above)", "seeds", "verdict")
    rows = []
    for entry in found:
        numbers = ["not defined"] * 4
        if not math.isnan(entry.estimate):
            judged = f"{100 * entry.low:+.2f} to {100 * entry.high:+.2f}", f"{entry.p:.4f}"
            few = "too few images", "too few images"
            numbers = [f"{100 * entry.estimate:+.2f}", *(judged if entry.few is None else few), f"{entry.above:.2f}"]
        seeds = " and ".join(map(str, entry.seeds))
        rows.append((entry.one, entry.other, entry.metric, *numbers, seeds, entry.verdict))
    return new_table(columns, rows)


def plans(planned: Sequence[Plan]) -> pd.DataFrame:
    """Return what more seeds would find, in points."""
    columns = ("seeds of each", "a typical pair shows", "every pair shows", "undecided pairs that it would decide")
    return new_table(
        columns, [(str(one.seeds), f"{one.typical:.1f}", f"{one.worst:.1f}", str(one.decided)) for one in planned]
    )


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return `0.512 ± 0.004`, with the sample standard deviation, or only the mean of a single value."""
    if not np.isfinite(values).all():
        return "absent"
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def _mean(values: Sequence[float | None], unit: float, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known) / unit:.{digits}f}" if known else "not measured"


def _size(variants: Sequence[Variant]) -> str:
    sizes = {tuple(variant.summary.flops_size) for variant in variants}
    return "x".join(map(str, sizes.pop())) if len(sizes) == 1 else "at each one's size"
