"""Compare the costs of two networks over input sizes, from the files of `segrefine benchmark ... output=FILE`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from segrefine.compare.figures import COLORS, new_figure
from segrefine.compare.tables import new_table
from segrefine.core.errors import UserError

STEP = "train"


@dataclass(frozen=True)
class Measurement:
    """One training step of both networks at one input size (H, W): what the first and the second need."""

    size: tuple[int, int]
    memory_bytes: tuple[float, float]
    multiply_adds: tuple[float, float]  # of one image
    seconds: tuple[float, float]  # for one image, the median over the rounds
    quartiles: tuple[tuple[float, float], tuple[float, float]]  # of the seconds

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as much the first network needs."""
        costs = {"memory": self.memory_bytes, "multiply-adds": self.multiply_adds, "time": self.seconds}
        return {name: one / other for name, (one, other) in costs.items()}


def read_measurements(folder: Path, networks: Sequence[str]) -> list[Measurement]:
    """Read the measurements of two networks from all .json files in the folder, sorted by size.

    Raises:
        UserError: a file does not hold both networks.
    """
    measurements = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = {row["network"]: row for row in content["results"] if row["step"] == STEP}
            measurements.append(_measurement(content["options"]["size"], [rows[name] for name in networks]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no benchmark of {' and '.join(networks)}: {error}.") from error
    return sorted(measurements, key=lambda measurement: measurement.size)


def _measurement(size: Sequence[int], rows: Sequence[dict[str, Any]]) -> Measurement:
    def both(key: str) -> tuple[float, float]:
        return rows[0][key], rows[1][key]

    slow, fast = ([1 / row["quartiles"][end] for row in rows] for end in (0, 1))
    seconds = 1 / rows[0]["images_per_second"], 1 / rows[1]["images_per_second"]
    quartiles = (fast[0], slow[0]), (fast[1], slow[1])
    return Measurement((size[0], size[1]), both("memory_bytes"), both("multiply_adds_per_image"), seconds, quartiles)


def describe_costs(measurements: Sequence[Measurement], networks: Sequence[str]) -> str:
    """Return the range of each ratio over the sizes, such as `a over b: memory 1.10 to 1.40, multiply-adds 1.20`."""
    one, other = (network.rpartition(":")[2].partition("/")[0] for network in networks)  # of a peer, the function
    parts = []
    for name in measurements[0].ratios:
        ratios = sorted(entry.ratios[name] for entry in measurements)
        least, most = f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"
        parts.append(f"{name} {least}" if least == most else f"{name} {least} to {most}")
    return f"{one} over {other}: {', '.join(parts)}"


def judge_costs(measurements: Sequence[Measurement]) -> str:
    """Return whether the first network needs more of everything at every size."""
    more = {name: [entry.ratios[name] > 1 for entry in measurements] for name in measurements[0].ratios}
    words = {
        name: "more" if all(values) else "less" if not any(values) else "depends on the size"
        for name, values in more.items()
    }
    if set(words.values()) == {"more"}:
        return "holds"
    if set(words.values()) == {"less"}:
        return "the opposite holds"
    return f"in part: {', '.join(f'{name} {word}' for name, word in words.items())}"


def cost_table(measurements: Sequence[Measurement], networks: Sequence[str]) -> pd.DataFrame:
    """Return what both networks need at each size, and how many times as much the first needs."""
    rows = []
    for entry in measurements:
        timed = zip(entry.seconds, entry.quartiles, strict=True)
        times = [f"{1000 * s:.0f} ({1000 * low:.0f} to {1000 * high:.0f})" for s, (low, high) in timed]
        memory = [f"{value / 2**20:.0f}" for value in entry.memory_bytes]
        work = [f"{value / 1e9:.1f}" for value in entry.multiply_adds]
        ratios = [f"{value:.2f}" for value in entry.ratios.values()]
        size = "x".join(map(str, entry.size))
        rows.append((size, *(" / ".join(pair) for pair in (memory, work, times)), *ratios))
    both = " / ".join(networks)
    needs = f"memory of a step, MiB: {both}", "multiply-adds of an image, G", "time of an image, ms (quartiles)"
    return new_table(("size", *needs, "times the memory", "times the multiply-adds", "times the time"), rows)


def cost_plot(measurements: Sequence[Measurement], networks: Sequence[str]) -> Figure:
    """Plot how many times as much the first network needs, over the size."""
    figure, (axis,) = new_figure(1, 1, width=6.0)
    sides = [measurement.size[0] for measurement in measurements]
    for name, color in zip(measurements[0].ratios, COLORS, strict=False):
        axis.plot(sides, [entry.ratios[name] for entry in measurements], marker="o", color=color, label=name)
    axis.axhline(1, color="#444444", linewidth=0.8)
    axis.set(xlabel="side of the image, pixels", ylabel=f"{networks[0]} over\n{networks[1]}", ylim=(0, None))
    axis.legend(frameon=False)
    return figure
