"""Write the page of a comparison: one HTML file that holds all tables, plots and pictures and loads nothing else."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from segrefine.compare.difference import Difference
from segrefine.compare.pictures import Picture, Pictures
from segrefine.compare.ranking import Ranked
from segrefine.core.labels import VOID
from segrefine.core.text import printable
from segrefine.io.atomic import write_text
from segrefine.viz import VOID_ERROR_COLOR, WRONG_COLOR, colorize, error_map

QUALITY = 90  # of the photographs, JPEG: a tenth of the size of PNG, which the label maps keep

WIDE = 600
"""Points: a plot of two panels is wider, one of a single panel is not."""

MOST_ROWS = 1_500
"""The most rows of a table on the page: a browser takes seconds for more. The files beside the page have them all."""


@dataclass(frozen=True)
class Page:
    """Content of the page. The template escapes all texts."""

    title: str
    answer: Sequence[str]  # sentences that say what was found and what was not
    shared: str  # what holds for each variant unless its name says otherwise
    ranking: Sequence[Ranked]
    front: str  # the text of an SVG file, shown beside the ranking
    differences: Sequence[Difference]
    plots: Mapping[str, str]  # the text of SVG files by title
    pictures: Pictures | None
    tables: Mapping[str, pd.DataFrame]  # of text, by title
    notes: Sequence[str]  # what a reader has to know


def write_page(path: Path, page: Page) -> None:
    """Write the page to `path`. It opens from the file system, and its security policy forbids it to load anything."""
    loader = PackageLoader("segrefine.compare", ".")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, style = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    text = templates.get_template("page.html").render(
        page=page,
        rows=_rank_rows(page.ranking),
        front=_plot("Accuracy and cost", page.front),
        differences=_describe_differences(page),
        plots=[_plot(title, svg) for title, svg in page.plots.items()],
        tables={title: table for title, table in page.tables.items() if len(table) <= MOST_ROWS},
        left_out=[title for title, table in page.tables.items() if len(table) > MOST_ROWS],
        pictures=_describe_all(page.pictures) if page.pictures else None,
        style=style,
        script=script,
        script_hash=f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    write_text(path, printable(text))


def _rank_rows(ranking: Sequence[Ranked]) -> list[dict[str, Any]]:
    """Return the rows of the ranking, with bar positions in % of the range that all intervals span."""
    values = np.array([(one.low, one.score, one.high) for one in ranking])
    values[:, [0, 2]] = np.where(np.isnan(values[:, [0, 2]]), values[:, [1]], values[:, [0, 2]])
    least, most = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    margin = 0.04 * (most - least) or 0.01
    places = 100 * (values - least + margin) / (most - least + 2 * margin)
    return [
        {
            "name": one.variant.label,
            "whole": one.variant.whole,
            "score": "absent" if np.isnan(one.score) else f"{one.score:.3f}",
            "interval": "" if np.isnan(one.low) else f"{one.low:.3f} to {one.high:.3f}",
            "letters": one.letters,
            "flops": f"{one.variant.summary.flops / 1e9:.2f}",
            "params": f"{one.variant.summary.params / 1e6:.1f}",
            "bar": None if np.isnan(place).any() else [round(float(each), 2) for each in place],
        }
        for one, place in zip(ranking, places, strict=True)
    ]


def _describe_differences(page: Page) -> dict[str, Any] | None:
    """Return what page.js draws for every pair: the ranks of both variants, and points."""
    names = [one.variant.label for one in page.ranking]
    pairs = [
        {
            "one": names.index(entry.one),
            "other": names.index(entry.other),
            "points": [round(100 * value, 2) for value in (entry.estimate, entry.low, entry.high)],
            "above": round(entry.above, 2),
            "outcome": entry.outcome,
        }
        for entry in page.differences
        if np.isfinite([entry.estimate, entry.low, entry.high]).all()
    ]
    return {"names": [printable(name) for name in names], "pairs": pairs} if pairs else None


def _plot(title: str, svg: str) -> dict[str, Any]:
    """Return the plot as an image, so that names and styles in one SVG do not affect the others.

    A plot wider than `WIDE` gets a row of its own, with `ratio`, its width over its height. Others have none.
    """
    size = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    ratio = round(float(size[1]) / float(size[2]), 3) if size and float(size[1]) > WIDE else None
    return {"title": title, "uri": _uri("svg+xml", printable(svg).encode()), "ratio": ratio}


def _describe_all(pictures: Pictures) -> dict[str, Any]:
    """Return what page.js shows."""
    names = [*pictures.classes, *(["void"] * (VOID + 1 - len(pictures.classes)))]
    colors = colorize(np.arange(VOID + 1)[None], pictures.palette)[0]
    images = [_describe(picture, pictures.palette) for picture in pictures.items]
    return {
        "models": [printable(label) for label in pictures.labels],
        "classes": [{"name": printable(name), "color": _hex(color)} for name, color in zip(names, colors, strict=True)],
        "error": [
            {"name": "wrong", "color": _hex(WRONG_COLOR)},
            {"name": "void (in errors)", "color": _hex(VOID_ERROR_COLOR)},
        ],
        "images": images,
        "shown": sorted({index for image in images for index in image["classes"]}),
    }


def _describe(picture: Picture, palette: np.ndarray) -> dict[str, Any]:
    nothing = np.zeros_like(picture.truth)
    height, width = nothing.shape
    return {
        "id": printable(picture.id),
        "width": width,
        "height": height,
        "input": _jpeg(picture.image),
        "faded": _jpeg(error_map(picture.image, nothing, nothing)[..., 0]),
        "truth": _label_png(picture.truth, palette),
        "predictions": [_label_png(labels, palette) for labels in picture.predictions],
        "errors": [_error_png(picture.truth, labels) for labels in picture.predictions],
        "classes": np.unique([picture.truth, *picture.predictions]).tolist(),
        "differing": picture.shares.differing.round(4).tolist(),
        "wrong": picture.shares.wrong.round(4).tolist(),
    }


def _label_png(labels: np.ndarray, palette: np.ndarray) -> str:
    """Return a label map (H, W) in the colors of the classes, with a palette of those that occur."""
    occurring, indices = np.unique(labels, return_inverse=True)
    return _indexed_png(indices.reshape(labels.shape), colorize(occurring[None], palette)[0])


def _error_png(truth: np.ndarray, prediction: np.ndarray) -> str:
    """Return what `viz.error_map` draws over the faded image. Pixels that are right are transparent."""
    codes = np.where(truth == VOID, 2, truth != prediction)
    return _indexed_png(codes, np.array([(255, 255, 255), WRONG_COLOR, VOID_ERROR_COLOR]), transparency=0)


def _indexed_png(indices: np.ndarray, colors: np.ndarray, **options: Any) -> str:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    return _encoded(image, "png", **options)


def _jpeg(pixels: np.ndarray) -> str:
    return _encoded(Image.fromarray(pixels), "jpeg", quality=QUALITY, subsampling=0)


def _encoded(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return _uri(kind, buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _hex(color: Sequence[int] | np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, color))
