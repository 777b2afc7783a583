"""Create, style and save the figures of a comparison."""

import io
import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from segrefine.compare.variants import Variant
from segrefine.io.atomic import replacing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#B8A900")
"""Colors that color-blind readers can tell apart (Okabe and Ito, "Color universal design", 2008; darker yellow)."""

MARKS = (("o", ""), ("s", "//"), ("D", ".."), ("^", "xx"))
"""Markers, and hatches of bars: the next pair for every eight variants, which share a color otherwise."""


class Style(NamedTuple):
    """How one variant is drawn in all plots."""

    color: str
    marker: str
    hatch: str


def save_figure(figure: Figure, path: Path) -> None:
    """Save the figure as an image file at `path`."""
    with replacing(path) as part:
        figure.savefig(part)
    figure.set_layout_engine("none")  # it is laid out now: to do it again for another format takes as long


def as_svg(figure: Figure) -> str:
    """Return the figure as an SVG element for a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def new_figure(rows: int, columns: int, width: float = 11.0, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Create a figure of `width` by `height` inches. Return it and its axes, in the style of all plots here."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        style_axis(axis)
    return figure, axes


def style_axis(axis: Axes) -> None:
    """Give the axis the style of all plots here."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)


def styled(variants: Sequence[Variant]) -> list[tuple[Variant, Style]]:
    """Pair each variant with its style, the same in all plots."""
    styles = (Style(color, *mark) for mark in cycle(MARKS) for color in COLORS)
    return list(zip(variants, styles, strict=False))


def add_legend(figure: Figure, axis: Axes, title: str | None = None) -> None:
    """Draw the legend at the right, and make the figure higher if its lines need that."""
    handles, labels = axis.get_legend_handles_labels()
    lines = sum(label.count("\n") + 1 for label in labels) + 2
    figure.set_figheight(max(figure.get_figheight(), 0.185 * lines))
    markers = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    figure.legend(markers, labels, loc="outside right upper", fontsize="small", frameon=False, title=title)


def wrap(text: str, width: int = 36) -> str:
    """Wrap a variant's name into lines of `width` characters: it may list many options."""
    return "\n".join(textwrap.wrap(plain(text), width, break_on_hyphens=False))


def plain(text: str) -> str:
    """Remove what matplotlib would read as math or as a label to hide."""
    return text.replace("$", r"\$").lstrip("_") or "_"
