"""Tables of a comparison, as rows of text that are written as Markdown, CSV, LaTeX or HTML."""

import csv
import html
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segrefine.compare.scores import CLASS, PLAIN, score
from segrefine.compare.statistics import Difference
from segrefine.compare.variants import Variant
from segrefine.core.text import printable

if TYPE_CHECKING:
    from segrefine.runs.summary import Summary


@dataclass(frozen=True)
class Table:
    """`title`, the names of the columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

        rule = "| " + " | ".join("---" for _ in self.columns) + " |"
        return "\n".join([line(self.columns), rule, *map(line, self.rows)]) + "\n"

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """For the booktabs package."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join(_escape_latex(cell) for cell in cells) + r" \\"

        rows = "\n".join(map(line, self.rows))
        return (
            f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}\n\\toprule\n{line(self.columns)}\n\\midrule\n"
            f"{rows}\n\\bottomrule\n\\end{{tabular}}\n"
        )

    def html(self) -> str:
        def line(cells: Sequence[str], kind: str) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(printable(cell))}</{kind}>" for cell in cells) + "</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><thead>{line(self.columns, 'th')}</thead><tbody>{body}</tbody></table>"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def overview(variants: Sequence[Variant]) -> Table:
    """Scores, mean and deviation over the seeds, and costs of every variant."""
    costs: dict[str, Callable[[Summary], str]] = {
        "parameters (M)": lambda summary: f"{summary.params / 1e6:.2f}",
        f"multiply-adds (G, {_size(variants)})": lambda summary: f"{summary.flops / 1e9:.2f}",
    }
    columns = ("variant", "backbone", "seeds", *PLAIN, *costs, "images/s", "peak memory (MiB)")
    rows = []
    for variant in variants:
        scores = [mean_and_deviation([float(score(run, name)) for run in variant.runs]) for name in PLAIN]
        rates = [run.summary.images_per_second for run in variant.runs]
        memory = [run.summary.peak_memory_bytes for run in variant.runs]
        rows.append(
            (
                variant.label,
                variant.summary.backbone,
                str(len(variant.runs)),
                *scores,
                *(cost(variant.summary) for cost in costs.values()),
                _mean(rates, 1, 1),
                _mean(memory, 2**20, 0),
            )
        )
    return Table("Variants", columns, tuple(rows))


def per_class(variants: Sequence[Variant]) -> Table:
    """IoU of every class, the mean over the seeds."""
    rows = []
    for name in variants[0].runs[0].classes:
        values = [[float(score(run, f"{CLASS}{name}")) for run in variant.runs] for variant in variants]
        rows.append((name, *(mean_and_deviation(column) for column in values)))
    return Table("IoU of each class", ("class", *(variant.label for variant in variants)), tuple(rows))


def differences(found: Sequence[Difference], title: str) -> Table:
    """What `Bootstrap.difference` found, in points."""
    columns = ("variant", "against", "score", "difference", "95 % interval", "p", "p (Holm)", "seeds", "verdict")
    rows = [
        (
            difference.one,
            difference.other,
            difference.metric,
            f"{100 * difference.estimate:+.2f}",
            f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}",
            _p(difference.p),
            _p(difference.adjusted_p),
            " and ".join(map(str, difference.seeds)),
            difference.verdict,
        )
        for difference in found
    ]
    return Table(title, columns, tuple(rows))


def mean_and_deviation(values: Sequence[float]) -> str:
    """`0.512 ± 0.004`: the deviation is that of a sample, and left out where there is but one value."""
    if not np.isfinite(values).all():
        return "absent"
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def _mean(values: Sequence[float | None], unit: float, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known) / unit:.{digits}f}" if known else "not measured"


def _p(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.4f}"


def _size(variants: Sequence[Variant]) -> str:
    sizes = {tuple(variant.summary.flops_size) for variant in variants}
    return "x".join(map(str, sizes.pop())) if len(sizes) == 1 else "at each one's size"
