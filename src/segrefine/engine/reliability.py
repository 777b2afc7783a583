"""What an evaluation writes of a network's calibration: a table and a plot."""

import numpy as np
from matplotlib.figure import Figure

from segrefine.io.atomic import replacing, write_text
from segrefine.metrics.calibration import BINS, Reliability
from segrefine.runs.folder import RunFolder


def write_reliability(reliability: Reliability, folder: RunFolder) -> None:
    """Write `reliability.csv`, a row for each bin, and `reliability.png`."""
    columns = zip(reliability.pixels, reliability.confidence, reliability.accuracy, strict=True)
    lines = ["above,up_to,pixels,confidence,accuracy"]
    for number, (pixels, confidence, accuracy) in enumerate(columns):
        lines.append(f"{number / BINS:.4f},{(number + 1) / BINS:.4f},{pixels},{confidence:.6f},{accuracy:.6f}")
    write_text(folder.path / RunFolder.RELIABILITY_TABLE, "\n".join([*lines, ""]))
    with replacing(folder.path / RunFolder.RELIABILITY_PLOT) as part:
        draw_reliability(reliability).savefig(part)


def draw_reliability(reliability: Reliability) -> Figure:
    """Draw accuracy over confidence, equal where a network is calibrated, and the share of pixels in each bin."""
    figure = Figure((5, 6), layout="constrained", dpi=150)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy, pixels = reliability.confidence, reliability.accuracy, reliability.pixels
    middles, bars = (np.arange(BINS) + 0.5) / BINS, {"width": 1 / BINS, "color": "#0072B2", "edgecolor": "white"}
    top.plot([0, 1], [0, 1], color="#999999", linestyle="--", label="calibrated")
    top.bar(middles, np.nan_to_num(accuracy), label="accuracy", **bars)
    top.plot(confidence, accuracy, "o", color="#D55E00", label="at the mean confidence of a bin")
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"expected calibration error {reliability.error:.4f}")
    top.legend(loc="upper left", frameon=False)
    bottom.bar(middles, pixels / max(pixels.sum(), 1), **bars)
    bottom.set(xlabel="confidence: probability of the predicted class", ylabel="share of pixels")
    return figure
