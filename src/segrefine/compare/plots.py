"""Draw the plots of a comparison, one matplotlib figure each.

Plots show means over the seeds, and 95 % intervals as bars and bands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from segrefine.compare.difference import Difference
from segrefine.compare.figures import COLORS, add_legend, new_figure, plain, styled, wrap
from segrefine.compare.scores import CLASS, mean_score
from segrefine.compare.statistics import Bootstrap
from segrefine.compare.variants import Variant
from segrefine.metrics.scores import REGIONS, SIZES, TRIMAP_WIDTHS

STAGES = (*(f"encoder_stage{number}" for number in range(1, 6)), "decoder")


def draw_all(variants: Sequence[Variant], metric: str, bootstrap: Bootstrap) -> dict[str, Figure]:
    """Draw every plot. Return the figures by the name of their file."""
    figures = {
        "accuracy_and_cost": accuracy_and_cost(variants, metric, bootstrap),
        "classes": class_bars(variants, bootstrap),
    }
    if all(f"{region}_truth" in run.count_names for variant in variants for run in variant.runs for region in REGIONS):
        figures["regions"] = regions(variants, bootstrap)
    if have_curves(variants):
        figures["learning_curves"] = learning_curves(variants)
    return figures


def accuracy_and_cost(variants: Sequence[Variant], metric: str, bootstrap: Bootstrap) -> Figure:
    """Plot the score over multiply-adds and over parameters, with the Pareto front, which nothing beats in both."""
    figure, axes = new_figure(1, 2)
    draw_costs(axes[0], variants, bootstrap, metric)
    draw_costs(axes[1], variants, bootstrap, metric, "params")
    add_legend(figure, axes[0], "filled: on the Pareto front")
    return figure


COSTS = {"flops": ("multiply-adds for an image (G)", 1e9), "params": ("parameters (M)", 1e6)}
"""Costs of a summary, with the title of the axis and the unit."""


def draw_costs(
    axis: Axes, variants: Sequence[Variant], bootstrap: Bootstrap, metric: str = "mIoU", cost: str = "flops"
) -> None:
    """Plot the score over a cost, one of `COSTS`. Variants on the Pareto front are filled."""
    points, front = _draw_front(axis, variants, metric, cost)
    for index, (variant, style) in enumerate(styled(variants)):
        x, y = points[index]
        bar = _bar(y, bootstrap.interval(variant, metric))
        look: dict[str, Any] = {"markersize": 8, "capsize": 3, "color": style.color, "fmt": style.marker}
        fill = style.color if index in front else "white"
        axis.errorbar(x, y, bar, markerfacecolor=fill, label=wrap(variant.label), **look)


def _draw_front(
    axis: Axes, variants: Sequence[Variant], metric: str, cost: str
) -> tuple[list[tuple[float, float]], set[int]]:
    """Draw the Pareto front and set the axes. Return the points (cost, score), and which of them are on the front."""
    title, unit = COSTS[cost]
    points = [(getattr(variant.summary, cost) / unit, mean_score(variant.runs, metric)) for variant in variants]
    front = pareto_front(points)
    axis.plot(*zip(*(points[index] for index in front), strict=True), color="#999999", linestyle="--", zorder=1)
    axis.set(xlabel=title, ylabel=metric, xscale="log")
    axis.set_xticks(_apart(sorted({round(x, 2) for x, _ in points} - {0})), minor=False)  # the points' own values
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    return points, set(front)


def accuracy_and_flops(ranked: Sequence[Variant], metric: str, bootstrap: Bootstrap) -> Figure:
    """Plot the score over multiply-adds, to stand beside the ranking. Each point shows its variant's rank."""
    figure, (axis,) = new_figure(1, 1, width=5.0, height=3.6)
    points, front = _draw_front(axis, ranked, metric, "flops")
    for index, ((x, y), variant) in enumerate(zip(points, ranked, strict=True)):
        bar, fill = _bar(y, bootstrap.interval(variant, metric)), COLORS[0] if index in front else "white"
        style: dict[str, Any] = {"markersize": 6, "capsize": 2, "color": COLORS[0], "ecolor": "#9dbfd6"}
        axis.errorbar(x, y, bar, fmt="o", markerfacecolor=fill, **style)
    axis.autoscale_view()  # which is otherwise left for later, and places in pixels depend on it
    for places in _near_one_another(axis.transData.transform(points)):
        ranks = [str(place + 1) for place in places]
        text = ", ".join(ranks if len(ranks) <= 3 else [ranks[0], f"… {ranks[-1]}"])
        axis.annotate(text, points[places[0]], (6, 4), textcoords="offset points", fontsize="small")
    return figure


def _bar(value: float, interval: tuple[float, float]) -> list[list[float]]:
    """Return the lengths of an error bar below and above a value."""
    return [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]]


def _near_one_another(places: np.ndarray) -> list[list[int]]:
    """Group the points (N, 2), in pixels, whose numbers would lie over each other. A group is in the order given."""
    groups: list[list[int]] = []
    for index, place in enumerate(places):
        near = (group for group in groups if (np.abs(places[group[0]] - place) < (20, 14)).all())
        if (group := next(near, None)) is None:
            groups.append([index])
        else:
            group.append(index)
    return groups


def _apart(values: Sequence[float]) -> list[float]:
    """Select from rising positive values those that are at least a sixth of the log-scale range apart."""
    chosen = list(values[:1])
    for value in values[1:]:
        if np.log(value / chosen[-1]) >= np.log(values[-1] / values[0]) / 6:
            chosen.append(value)
    return chosen


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) without a better one at the same cost or less, by rising cost."""
    known = [index for index, (_, score) in enumerate(points) if not np.isnan(score)]
    order = sorted(known, key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def regions(variants: Sequence[Variant], bootstrap: Bootstrap) -> Figure:
    """Plot the mean IoU near the boundaries of the truth, and by the size of its regions."""
    figure, axes = new_figure(1, 2)
    widths = [f"trimap_{width}" for width in TRIMAP_WIDTHS]
    sizes = [f"size_{size}" for size in SIZES]
    names = [size.replace("_up", " and more").replace("_", " to ") for size in SIZES]
    for axis, keys, ticks in zip(axes, (widths, sizes), (map(str, TRIMAP_WIDTHS), names), strict=True):
        for variant, (color, marker, _) in styled(variants):
            values = [mean_score(variant.runs, key) for key in keys]
            ends = np.array([bootstrap.interval(variant, key) for key in keys])
            axis.plot(range(len(keys)), values, marker=marker, color=color, label=wrap(variant.label))
            axis.fill_between(range(len(keys)), ends[:, 0], ends[:, 1], color=color, alpha=0.12, linewidth=0)
        axis.set_xticks(range(len(keys)), list(ticks))
        axis.set(ylabel="mIoU")
    axes[0].set(xlabel="pixels from a boundary of the truth, at most")
    axes[1].set(xlabel="size of the region (root of its area, pixels)")
    add_legend(figure, axes[0])
    return figure


def class_bars(variants: Sequence[Variant], bootstrap: Bootstrap) -> Figure:
    """Plot the IoU of every class."""
    classes = variants[0].runs[0].classes
    figure, (axis,) = new_figure(1, 1, width=max(11.0, 0.16 * len(classes) * (len(variants) + 1)))
    width = 0.8 / len(variants)
    for place, (variant, style) in enumerate(styled(variants)):
        values = np.array([mean_score(variant.runs, f"{CLASS}{name}") for name in classes])
        ends = np.array([bootstrap.interval(variant, f"{CLASS}{name}") for name in classes]).T
        bars = np.nan_to_num(np.abs(ends - values))
        at = np.arange(len(classes)) + (place - (len(variants) - 1) / 2) * width
        look: dict[str, Any] = {"color": style.color, "hatch": style.hatch, "error_kw": {"elinewidth": 0.8}}
        axis.bar(at, values, width, yerr=bars, label=wrap(variant.label), edgecolor="white", linewidth=0, **look)
    turned = 90 if len(classes) > 40 else 45 if max(map(len, classes)) * len(classes) > 110 else 0
    axis.set_xticks(range(len(classes)), [plain(name) for name in classes], rotation=turned)
    axis.set(ylabel="IoU")
    add_legend(figure, axis)
    return figure


def have_curves(variants: Sequence[Variant]) -> bool:
    """Return whether any run was validated more than once."""
    return any(len(run.curve("val/mIoU")[0]) > 1 for variant in variants for run in variant.runs)


def learning_curves(variants: Sequence[Variant]) -> Figure:
    """Plot validation mIoU over the steps: a thin line for each seed, and their mean if they share all steps."""
    figure, (axis,) = new_figure(1, 1, width=6.0)
    for variant, (color, marker, _) in styled(variants):
        curves = [curve for run in variant.runs if len((curve := run.curve("val/mIoU"))[0])]
        for steps, values in curves:
            axis.plot(steps, values, color=color, alpha=0.35, linewidth=0.8)
        if curves and all(np.array_equal(steps, curves[0][0]) for steps, _ in curves):
            mean = np.mean([values for _, values in curves], axis=0)
            axis.plot(curves[0][0], mean, color=color, marker=marker, markersize=3, label=wrap(variant.label))
    axis.set(xlabel="step", ylabel="val mIoU")
    add_legend(figure, axis)
    return figure


def difference_bars(found: Sequence[Difference]) -> Figure:
    """Plot the differences with their intervals, one row each. Those that are more than noise are blue."""
    names = [wrap(f"{entry.one} against {entry.other}, {entry.metric}", 60) for entry in reversed(found)]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    figure, (axis,) = new_figure(1, 1, height=0.9 + (0.16 + 0.16 * lines) * len(found))
    for row, difference in enumerate(reversed(found)):
        color = COLORS[0] if difference.shown else "#999999"
        axis.plot([100 * difference.low, 100 * difference.high], [row, row], color=color, linewidth=2)
        axis.plot(100 * difference.estimate, row, "o", color=color)
        if difference.margin:
            axis.plot([-100 * difference.margin] * 2, [row - 0.4, row + 0.4], color="#444444", linestyle=":")
    axis.set_yticks(range(len(found)), names)
    axis.axvline(0, color="#444444", linewidth=0.8)
    legend = "blue: shown, gray: not shown" + ", dotted: the margin" * any(entry.margin for entry in found)
    axis.set(xlabel=f"difference in points; the 95 % intervals hold together ({legend})", ylim=(-0.6, len(found) - 0.4))
    return figure


def gradients(variants: Sequence[Variant], bootstrap: Bootstrap) -> Figure:
    """Plot the gradient norm of every encoder stage over the steps, a panel for each variant that logged it."""
    logged = [variant for variant in variants if len(variant.runs[0].curve(f"gradient/{STAGES[0]}")[0])]
    figure, axes = new_figure(1, max(len(logged), 1), width=1.5 + 3.5 * max(len(logged), 1))
    means = []
    for axis, variant in zip(axes, logged, strict=False):
        for stage, color in zip(STAGES, (*COLORS[:5], "#444444"), strict=True):
            curves = [run.curve(f"gradient/{stage}") for run in variant.runs]
            steps = min((steps for steps, _ in curves), key=len)
            mean = np.exp(np.mean([np.log(values[: len(steps)] + 1e-12) for _, values in curves], axis=0))
            axis.plot(steps, mean, color=color, linewidth=1, label=stage.replace("_", " "))
            means.append(mean)
        axis.set(title=wrap(variant.label), xlabel="step", yscale="log")
        axis.sharey(axes[0])
    axes[0].set(ylabel="norm of the gradient before clipping")
    if means:  # shared axes take the limits of the first
        axes[0].set_ylim(min(mean.min() for mean in means) / 2, max(mean.max() for mean in means) * 2)
    add_legend(figure, axes[0])
    return figure


PLOTS: dict[str, Callable[[Sequence[Variant], Bootstrap], Figure]] = {
    "accuracy_and_cost": lambda variants, bootstrap: accuracy_and_cost(variants, "mIoU", bootstrap),
    "regions": regions,
    "classes": class_bars,
    "learning_curves": lambda variants, bootstrap: learning_curves(variants),
    "gradients": gradients,
}
"""The plots that a claim can show."""
