"""The page of `compare.py`: one HTML file with all tables, plots and pictures in it, which loads nothing else."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrefine.compare.pictures import Picture, Pictures
from segrefine.core.labels import VOID
from segrefine.core.text import printable
from segrefine.io.atomic import write_text
from segrefine.viz import VOID_ERROR_COLOUR, WRONG_COLOUR, colourise, errors

QUALITY = 90  # of the photographs, JPEG: a tenth of the size of PNG, which the label maps keep


@dataclass(frozen=True)
class Page:
    """What the page holds.

    Attributes:
        tables: HTML tables by their titles, above the plots. They are taken as they are: who writes them escapes.
        plots: the text of SVG files by title.
        pictures: images side by side, or None.
        details: HTML tables below the pictures.
        notes: what a reader has to know. Like all other texts, they are escaped here.
    """

    title: str
    tables: Mapping[str, str]
    plots: Mapping[str, str]
    pictures: Pictures | None
    details: Mapping[str, str]
    notes: Sequence[str]


def write_page(path: Path, page: Page) -> None:
    """Write the page to `path`. It opens from the file system, and its security policy lets it load nothing."""
    places = {name: f"table-{number}" for number, name in enumerate([*page.tables, *page.details])}
    links = [(places[name], name) for name in page.tables]
    links += [("plots", "Plots")] if page.plots else []
    links += [("pictures", "Pictures")] if page.pictures else []
    links += [(places[name], name) for name in page.details]
    script = _asset("page.js")
    parts = {
        "title": _text(page.title),
        "style": _asset("page.css"),
        "links": "".join(f'<a href="#{place}">{_text(name)}</a>' for place, name in links),
        "notes": _notes(page.notes),
        "tables": "".join(_table(places[name], name, table) for name, table in page.tables.items()),
        "details": "".join(_table(places[name], name, table) for name, table in page.details.items()),
        "plots": _plots(page.plots),
        "pictures": _fill(_asset("pictures.html"), {"data": _json(page.pictures)}) if page.pictures else "",
        "script": script,
        "script_hash": f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    }
    write_text(path, _fill(_asset("page.html"), parts))


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """The template with `{{name}}` replaced, in one go: a part may hold such braces itself."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _text(text: str) -> str:
    return escape(printable(text))


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f'<aside class="notes" aria-labelledby="notes-title"><h2 id="notes-title">Notes</h2><ul>{items}</ul></aside>'


def _table(place: str, title: str, table: str) -> str:
    return (
        f'<section id="{place}" aria-labelledby="{place}-title"><h2 id="{place}-title">{_text(title)}</h2>'
        f'<div class="table" role="region" tabindex="0" aria-labelledby="{place}-title">{printable(table)}</div>'
        "</section>"
    )


def _plots(plots: Mapping[str, str]) -> str:
    """As pictures rather than elements of the page: names and styles in one SVG then mean nothing to the others."""
    if not plots:
        return ""
    figures = "".join(
        f"<figure{_width(svg)}><figcaption>{_text(title)}</figcaption>"
        f'<img src="{_uri("svg+xml", printable(svg).encode())}" alt="Plot: {_text(title)}"></figure>'
        for title, svg in plots.items()
    )
    return f'<section id="plots"><h2>Plots</h2><div class="plots">{figures}</div></section>'


def _width(svg: str) -> str:
    """A class for a plot that is more than twice as wide as high, which gets a row of its own."""
    found = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    return ' class="wide"' if found and float(found[1]) > 2 * float(found[2]) else ""


def _json(pictures: Pictures) -> str:
    """What page.js shows; nothing in it can end the element that it stands in."""
    names = [*pictures.classes, *(["void"] * (VOID + 1 - len(pictures.classes)))]
    colours = colourise(np.arange(VOID + 1)[None], pictures.palette)[0]
    content: dict[str, Any] = {
        "models": [printable(label) for label in pictures.labels],
        "classes": [
            {"name": printable(name), "colour": _hex(colour)} for name, colour in zip(names, colours, strict=True)
        ],
        "error": [
            {"name": "wrong", "colour": _hex(WRONG_COLOUR)},
            {"name": "void (in errors)", "colour": _hex(VOID_ERROR_COLOUR)},
        ],
        "images": [_describe(picture, pictures.palette) for picture in pictures.items],
    }
    content["shown"] = sorted({index for image in content["images"] for index in image["classes"]})
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _describe(picture: Picture, palette: np.ndarray) -> dict[str, Any]:
    nothing = np.zeros_like(picture.truth)
    height, width = nothing.shape
    faded = errors(picture.image, nothing, nothing)[..., 0]
    return {
        "id": printable(picture.id),
        "width": width,
        "height": height,
        "input": _jpeg(picture.image),
        "faded": _jpeg(faded),
        "truth": _label_png(picture.truth, palette),
        "predictions": [_label_png(labels, palette) for labels in picture.predictions],
        "errors": [_error_png(picture.truth, labels) for labels in picture.predictions],
        "classes": np.unique([picture.truth, *picture.predictions]).tolist(),
        "differing": picture.shares.differing.round(4).tolist(),
        "wrong": picture.shares.wrong.round(4).tolist(),
    }


def _label_png(labels: np.ndarray, palette: np.ndarray) -> str:
    """Label map (H, W) in the classes' colours, with a palette of those that occur."""
    occurring, indices = np.unique(labels, return_inverse=True)
    return _indexed_png(indices.reshape(labels.shape), colourise(occurring[None], palette)[0])


def _error_png(truth: np.ndarray, prediction: np.ndarray) -> str:
    """What `panels.errors` lays over the faded image: wrong and void pixels; the others are transparent."""
    codes = np.where(truth == VOID, 2, truth != prediction)
    return _indexed_png(codes, np.array([(255, 255, 255), WRONG_COLOUR, VOID_ERROR_COLOUR]), transparency=0)


def _indexed_png(indices: np.ndarray, colours: np.ndarray, **options: Any) -> str:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colours.astype(np.uint8).tobytes())
    return _encoded(image, "png", **options)


def _jpeg(pixels: np.ndarray) -> str:
    return _encoded(Image.fromarray(pixels), "jpeg", quality=QUALITY, subsampling=0)


def _encoded(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return _uri(kind, buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _hex(colour: Sequence[int] | np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))
