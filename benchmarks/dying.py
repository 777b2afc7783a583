"""How a block of RefineNet dies: the responses of its adapting convolutions during the first steps.

    python benchmarks/dying.py docs/dying.png [seed=0] [steps=150]

Trains as `cures.py` does, for the first `steps` of its 400: without a cure at two rates of AdamW and one of SGD, and
with centered updates. Before every step it looks at each block's adapting convolution, whose input is positive, and at
the ReLU that leads to its pooling, on the batch at hand:

- shift: by how many of their standard deviations the channels' mean responses moved in the step before, root mean
  square over the channels;
- mean / deviation: the root mean square over the channels of mean over standard deviation;
- dead: the share of the block's channels that are positive nowhere.

Writes a picture, and beside it the numbers as CSV.
"""

import csv
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from cures import CURES, run
from torch import Tensor

from segrefine.engine.callbacks.dead_units import find_alive
from segrefine.models.network import SegmentationModel

RUNS = {
    "AdamW, 1e-3": {"cure": "none", "rate": "0.001"},
    "AdamW, 2e-4": {"cure": "none", "rate": "0.0002"},
    "SGD, 2e-2": {"cure": "sgd", "rate": "0.02"},
    "AdamW, 1e-3, centered from zero mean": {"cure": "centered+zero_mean", "rate": "0.001"},
}
MEASURES = {"shift": "shift a step / deviation", "ratio": "|mean| / deviation", "dead": "dead channels"}
BLOCKS = {i: f"stride {32 >> i}, fan-in {4608 >> i}" for i in range(4)}


class Trace:
    """Collects a row per step and block."""

    def __init__(self, name: str, first: int, stop: int) -> None:
        self.name, self.first, self.stop = name, first, stop
        self.rows: list[dict[str, Any]] = []
        self._means: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, step: int, net: SegmentationModel, images: Tensor) -> None:
        if step == self.stop:
            raise StopIteration
        if step >= self.first and step % 10:
            return
        responses: dict[int, Tensor] = {}
        hooks = [
            block.adapt[0][0].register_forward_hook(lambda module, inputs, out, i=i: responses.update({i: out}))
            for i, block in enumerate(net.decoder.blocks)  # type: ignore[arg-type, union-attr]
        ]
        alive = find_alive(net, images)
        for hook in hooks:
            hook.remove()
        for i, response in responses.items():
            deviation, mean = torch.std_mean(response, (0, 2, 3))
            moved = (mean - self._means.get(i, mean)) / deviation
            self._means[i] = mean
            channels = alive[f"decoder.blocks.{i}.pool.relu"].float()
            values = {"shift": _rms(moved), "ratio": _rms(mean / deviation), "dead": 1 - float(channels.mean())}
            self.rows.append({"run": self.name, "step": step, "block": i} | values)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a row of panels per measure, a column per run, a line per block."""
    figure, axes = plt.subplots(len(MEASURES), len(RUNS), figsize=(14, 7.5), sharex=True, sharey="row")
    for column, name in zip(axes.T, RUNS, strict=True):
        column[0].set_title(name, fontsize=10)
        for axis, (measure, label) in zip(column, MEASURES.items(), strict=True):
            for block, legend in BLOCKS.items():
                own = [row for row in rows if row["run"] == name and row["block"] == block]
                # A shift is of one step, so it is known as long as every step is looked at.
                own = [row for row in own if measure != "shift" or 0 < row["step"] < 60]
                axis.plot([row["step"] for row in own], [row[measure] for row in own], label=legend, linewidth=1.2)
            axis.grid(alpha=0.3)
            if axis is axes[list(MEASURES).index(measure), 0]:
                axis.set_ylabel(label)
            if measure != "dead":
                axis.set_yscale("log")
        column[-1].set_xlabel("step")
    axes[-1, 2].legend(fontsize=8)  # where no line is
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    path, options = Path(sys.argv[1]), dict(part.split("=") for part in sys.argv[2:])
    rows: list[dict[str, Any]] = []
    for name, row in RUNS.items():
        assert row["cure"] in CURES
        trace = Trace(name, first=60, stop=int(options.get("steps", "150")))
        with suppress(StopIteration):
            run(row | {"model": "refinenet", "seed": options.get("seed", "0"), "steps": "400"}, trace)
        rows += trace.rows
        print(name, rows[-4:], flush=True)
    with path.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(row | {key: f"{row[key]:.4g}" for key in MEASURES} for row in rows)
    plot(rows, path)


if __name__ == "__main__":
    main()
