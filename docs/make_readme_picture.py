"""Draw two networks on a typical image beside accuracy over cost.

    python docs/make_readme_picture.py RUN_A RUN_B --results RUN ... --output docs/front.png

Left: the image whose mIoU, averaged over both runs, is the median of the scored split, with the truth, both predictions
and both error maps. Right: mIoU over multiply-adds of all `--results`, with 95 % intervals over images and seeds. RUN_A
and RUN_B need their `predictions/` and the data. The committed results are enough for the plot.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from segrefine.compare.differing import Source
from segrefine.compare.figures import style_axis
from segrefine.compare.plots import draw_costs
from segrefine.compare.scores import image_scores
from segrefine.compare.statistics import Bootstrap
from segrefine.compare.variants import check_same_images, group
from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.io.atomic import replacing
from segrefine.runs.read import Run, find_runs, read_run
from segrefine.viz import VOID_COLOR, WRONG_COLOR, colorize, error_map

WIDTH = 9.0  # inches, at 100 dots per inch as wide as the text on GitHub
MOST_BYTES = 300_000
NAMES = {
    **{f"fcn{stride}s": f"FCN-{stride}s" for stride in (32, 16, 8, 4)},
    "refinenet": "RefineNet",
    "refinenet_lw": "Light-Weight RefineNet",
}


def typical_image(runs: Sequence[Run]) -> str:
    """Return the image with the median of the mIoU averaged over the runs, the lower of two."""
    scores = np.mean([image_scores(run) for run in runs], axis=0)
    known = np.flatnonzero(np.isfinite(scores))
    return runs[0].images[known[np.argsort(scores[known], kind="stable")[(len(known) - 1) // 2]]]


def draw_pictures(axes: np.ndarray, source: Source, name: str) -> list[Patch]:
    """Draw input, truth, predictions and errors on axes (2, 3). Return the legend of what they show."""
    image, label = source.dataset.read(source.indices[name])
    pixels, truth = image.permute(1, 2, 0).numpy(), label.numpy()
    maps, palette = source.predictions(name, truth.shape), source.datamodule.palette
    titles = [NAMES.get(run.summary.model, run.summary.model) for run in source.runs]
    columns = [("Input", pixels), ("Truth", colorize(truth, palette))]
    for title, labels in zip(titles, maps, strict=True):
        columns += [(title, colorize(labels, palette)), (f"Errors of {title}", error_map(pixels, truth, labels))]
    for axis, (title, picture) in zip(axes.T.flat, columns, strict=True):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9.5)
        axis.set_axis_off()
    occurring = [index for index in np.unique([truth, *maps]) if index < len(source.datamodule.classes)]
    colors: dict[str, Any] = {source.datamodule.classes[index]: palette[index] for index in occurring}
    colors |= {"void": VOID_COLOR} if (truth == VOID).any() else {}
    colors |= {"wrong": WRONG_COLOR}
    look: dict[str, Any] = {"edgecolor": "#444444", "linewidth": 0.5}
    return [Patch(facecolor=np.array(color) / 255, label=key, **look) for key, color in colors.items()]


def draw_plot(axis: Axes, runs: Sequence[Run]) -> None:
    """Draw mIoU over multiply-adds."""
    variants = [replace(variant, label=NAMES.get(variant.label, variant.label)) for variant in group(runs)]
    style_axis(axis)
    draw_costs(axis, variants, Bootstrap(variants))
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, fontsize=8.5, frameon=False, columnspacing=1.0
    )


def draw(pair: Sequence[Run], results: Sequence[Run]) -> Figure:
    """Draw the whole picture."""
    check_same_images(pair)
    source, name = Source(pair), typical_image(pair)
    height, width = source.truth(name).shape
    side = 0.63 * WIDTH / 3
    figure = Figure(figsize=(WIDTH, max(2 * side * height / width + 1.1, 3.4)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(0.63, 0.37))
    patches = draw_pictures(left.subplots(2, 3), source, name)
    look: dict[str, Any] = {"fontsize": 8.5, "frameon": False, "handlelength": 1.0, "columnspacing": 1.2}
    left.legend(handles=patches, loc="outside lower center", ncols=6, **look)
    draw_plot(right.subplots(), results)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save the picture as PNG, as sharp as `MOST_BYTES` allow."""
    for dpi in (200, 175, 150, 125, 100):
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=dpi, facecolor="white")
        packed = io.BytesIO()
        Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
        if packed.tell() < MOST_BYTES:
            break
    with replacing(path) as part:
        part.write_bytes(packed.getvalue())
    print(f"{path}: {packed.tell()} bytes at {dpi} dots per inch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs=2, type=Path)
    parser.add_argument("--results", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        save(draw([read_run(path) for path in given.run], find_runs(given.results)), given.output)
    except UserError as error:
        sys.exit(f"error: {error}")
