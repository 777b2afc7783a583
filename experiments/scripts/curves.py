"""Learning curves of finished runs: `python experiments/scripts/curves.py OUTPUT.png NAME=RUN_FOLDER ...`."""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Optimizer steps made and values of a logged name, from the run's metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [int(row["step"]) + 1 for row in rows], [float(row[name]) for row in rows]


def main(output: str, *runs: str) -> None:
    """Plot validation mIoU and boundary IoU of the runs, given as LABEL=FOLDER, to the file `output`."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), constrained_layout=True)
    for run in runs:
        label, folder = run.split("=", 1)
        for axis, name in zip(axes, ("val/mIoU", "val/boundary_IoU"), strict=True):
            axis.plot(*curve(Path(folder), name), marker="o", markersize=3, label=label)
            axis.set(xlabel="step", ylabel=name)
            axis.grid(alpha=0.3)
    for axis in axes:
        axis.set_ylim(bottom=0)  # after all curves: it ends the automatic choice
    axes[0].legend()
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in run for run in sys.argv[2:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
