"""How long recipes take to reach an accuracy: val mIoU against wall time.

    python benchmarks/time_to_accuracy.py OUTPUT [seeds=0,1,2] [targets=0.75,0.85] NAME=OPTIONS NAME=OPTIONS ...

OPTIONS are those of train.py, in quotes. `@FOLDER OPTIONS` runs the checkout in FOLDER, such as one of an older commit:

    python benchmarks/time_to_accuracy.py outputs/curves 'before=@../before' 'now=recipe.lr=0.001'

Each run is a process of its own, and the recipes take turns seed by seed. Time counts from the start of the process, so
it holds imports and validations. Leave the machine alone meanwhile. Writes OUTPUT.csv, a row per validation, and
OUTPUT.png, and prints the seconds to each target. Runs that OUTPUT.csv has are not repeated.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt

from rows import append, read

HERE = Path(__file__).parents[1]
LINE = re.compile(r"step (\d+):.* val/mIoU ([\d.]+)")
FIELDS = ["name", "seed", "step", "seconds", "mIoU"]
Row = dict[str, str]


def run(name: str, options: str, seed: str) -> Iterator[Row]:
    """Train once and yield a row per validation."""
    words = options.split()
    folder = Path(words.pop(0)[1:]).resolve() if options.startswith("@") else HERE
    with tempfile.TemporaryDirectory() as output:
        fixed = [f"seed={seed}", "logger=csv", f"hydra.run.dir={output}/run"]
        command = [sys.executable, str(folder / "train.py"), *words, *fixed]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(folder / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=output,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := LINE.search(line):
                seconds = f"{time.monotonic() - began:.1f}"
                yield {"name": name, "seed": seed, "step": found[1], "seconds": seconds, "mIoU": found[2]}
        if process.wait():
            sys.exit("".join(lines[-20:]))


def curves(rows: list[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return (seconds, mIoU) by name and seed."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        points = found.setdefault(row["name"], {}).setdefault(row["seed"], [])
        points.append((float(row["seconds"]), float(row["mIoU"])))
    return found


def reached(points: list[tuple[float, float]], target: float) -> float:
    """Return the seconds at which a run was first seen at the target; infinity if it never was."""
    return next((seconds for seconds, score in points if score >= target), float("inf"))


def report(rows: list[Row], targets: list[float]) -> None:
    """Print a Markdown table: final mIoU and the seconds to each target, medians over the seeds."""
    print(f"| recipe | seeds | seconds in all | last mIoU | {' | '.join(f'seconds to {t:g}' for t in targets)} |")
    print("| --- " * (4 + len(targets)) + "|")
    for name, seeds in curves(rows).items():
        ends = [points[-1] for points in seeds.values()]
        cells = [name, str(len(seeds)), f"{statistics.median(end[0] for end in ends):.0f}"]
        cells.append(", ".join(f"{end[1]:.3f}" for end in ends))
        for target in targets:
            times = [reached(points, target) for points in seeds.values()]
            cells.append(", ".join("not reached" if seconds == float("inf") else f"{seconds:.0f}" for seconds in times))
        print(f"| {' | '.join(cells)} |")


def plot(rows: list[Row], path: Path) -> None:
    """Draw a line per run, a color per recipe."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, (name, seeds) in enumerate(curves(rows).items()):
        for i, points in enumerate(seeds.values()):
            label = name if i == 0 else None
            axis.plot(*zip(*points, strict=True), color=f"C{number}", marker="o", markersize=3, label=label)
    axis.set_xlabel("seconds since the start")
    axis.set_ylabel("val mIoU")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    output, given = Path(sys.argv[1]), dict(part.split("=", 1) for part in sys.argv[2:])
    seeds = given.pop("seeds", "0,1,2").split(",")
    targets = [float(target) for target in given.pop("targets", "0.75,0.85").split(",")]
    file = output.with_suffix(".csv")
    rows = read(file)
    for seed in seeds:
        for name, options in given.items():
            if any((row["name"], row["seed"]) == (name, seed) for row in rows):
                continue
            for row in list(run(name, options, seed)):  # all at once: a run that was cut off is repeated
                append(file, FIELDS, row)
                rows.append(row)
    report(rows, targets)
    plot(rows, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
