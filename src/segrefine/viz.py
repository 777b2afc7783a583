"""Draw colored label maps, overlays, legends, contact sheets, and panels of input, truth, prediction and error.

Images and pictures are (H, W, 3) uint8, label maps (H, W) with values 0..K-1 or VOID, and palettes (K, 3) uint8, for K
classes.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from segrefine.core.labels import VOID
from segrefine.core.text import printable

Color = tuple[int, int, int]

VOID_COLOR: Color = (224, 224, 192)
"""Near-white cream, entry 255 of PASCAL VOC's palette. Black is VOC's background, which is a class."""

WRONG_COLOR: Color = (214, 39, 40)
VOID_ERROR_COLOR: Color = (160, 160, 160)

COLUMNS = ("Input", "Truth", "Prediction", "Error")
# Pixels of the longer side of a picture in a panel: legible, and four abreast fit a screen.
MIN_SIDE, MAX_SIDE = 192, 384
GAP, TEXT_HEIGHT, BOX = 8, 22, 14  # pixels between pictures, of a line of text, and of the color box in it
LEGEND_WIDTH = 800  # pixels of a legend by itself: about six short names in a line
BACKGROUND, INK = (255, 255, 255), (32, 32, 32)


def colorize(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colors (H, W, 3) uint8 of labels 0..255. Those of K and more get VOID_COLOR."""
    table = np.empty((256, 3), np.uint8)
    table[:] = VOID_COLOR
    table[: min(len(palette), VOID)] = palette[:VOID]
    return table[labels]


def overlay(image: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend `colors` and `image` half and half, all (H, W, 3) uint8."""
    return np.array(Image.blend(Image.fromarray(image), Image.fromarray(colors), 0.5))


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return a picture of the errors: wrong pixels red, void gray, correct ones the image in light gray tones."""
    faded = np.repeat(image.mean(axis=2, keepdims=True) * 0.4 + 255 * 0.6, 3, axis=2)
    picture = np.rint(faded).astype(np.uint8)
    picture[truth != prediction] = WRONG_COLOR
    picture[truth == VOID] = VOID_ERROR_COLOR
    return picture


def panel(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    palette: np.ndarray,
    class_names: Sequence[str],
) -> Image.Image:
    """Draw one row per image: input, truth, prediction, error. Below are the colors of the classes that occur.

    Sizes may differ from row to row. Small images are enlarged by whole factors, large ones reduced to `MAX_SIDE`.
    """
    rows = [
        [
            _fitted(image, Image.Resampling.BOX),
            _fitted(colorize(truth, palette), Image.Resampling.NEAREST),
            _fitted(colorize(prediction, palette), Image.Resampling.NEAREST),
            # A thin error fades, but never vanishes.
            _fitted(error_map(image, truth, prediction), Image.Resampling.BOX),
        ]
        for image, truth, prediction in zip(images, truths, predictions, strict=True)
    ]
    entries = _entries([*truths, *predictions], palette, class_names)
    if ("void", VOID_COLOR) in entries:
        entries.append(("void (in errors)", VOID_ERROR_COLOR))
    return _table(rows, COLUMNS, [*entries, ("wrong", WRONG_COLOR)])


def contact_sheet(
    images: Sequence[np.ndarray], labels: Sequence[np.ndarray], palette: np.ndarray, class_names: Sequence[str]
) -> Image.Image:
    """Draw images beside their labels in two columns, with the colors of the classes below."""
    pairs = [
        [_fitted(image, Image.Resampling.BOX), _fitted(colorize(label, palette), Image.Resampling.NEAREST)]
        for image, label in zip(images, labels, strict=True)
    ]
    rows = [[picture for pair in pairs[first : first + 2] for picture in pair] for first in range(0, len(pairs), 2)]
    return _table(rows, ("Image", "Labels") * min(len(pairs), 2), _entries(labels, palette, class_names))


def legend(class_names: Sequence[str], palette: np.ndarray) -> Image.Image:
    """Draw the colors of all classes with their names, in the order of the classes."""
    entries = _entries([np.arange(len(class_names))], palette, class_names)
    drawn = _legend(entries, max(LEGEND_WIDTH, *(2 * GAP + _length(name) for name, _ in entries)))
    used = ImageChops.difference(drawn, Image.new("RGB", drawn.size, BACKGROUND)).getbbox()
    return ImageOps.expand(drawn.crop(used), GAP, BACKGROUND)


def _table(rows: list[list[Image.Image]], titles: Sequence[str], entries: list[tuple[str, Color]]) -> Image.Image:
    """Arrange pictures in rows and columns, with a title over each column and a legend below."""
    column = max(MIN_SIDE // 2, *(picture.width for row in rows for picture in row))  # titles need some room
    width = len(titles) * (column + GAP) + GAP
    colors = _legend(entries, width)

    heights = [max(picture.height for picture in row) for row in rows]
    height = TEXT_HEIGHT + GAP + sum(height + GAP for height in heights)
    canvas = Image.new("RGB", (width, height + colors.height), BACKGROUND)
    lefts = [GAP + number * (column + GAP) for number in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        _write(canvas, (left + column // 2, GAP + TEXT_HEIGHT // 2), title, anchor="mm")
    top = TEXT_HEIGHT + GAP
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(lefts, row, strict=False):  # the last row may be shorter
            canvas.paste(picture, (left + (column - picture.width) // 2, top))
        top += height + GAP
    canvas.paste(colors, (0, top))
    return canvas


def _fitted(picture: np.ndarray, resampling: Image.Resampling) -> Image.Image:
    """Enlarge by a whole factor to `MIN_SIDE` or more (nearest and box repeat pixels), or reduce to `MAX_SIDE`."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    factor = min(-(-MIN_SIDE // longer), MAX_SIDE / longer)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Image.fromarray(picture).resize(size, resampling)


def _entries(maps: Sequence[np.ndarray], palette: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, Color]]:
    """Return name and color of each class that occurs in the label maps, in the order of the classes, then of void."""
    occurring = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    entries: list[tuple[str, Color]] = []
    for label in occurring[occurring < len(class_names)]:
        red, green, blue = map(int, palette[label])
        entries.append((class_names[label], (red, green, blue)))
    return [*entries, ("void", VOID_COLOR)] if VOID in occurring else entries


def _legend(entries: Sequence[tuple[str, Color]], width: int) -> Image.Image:
    """Draw color boxes with names, wrapped to `width` pixels."""
    places, left, top = [], GAP, 0
    for name, _ in entries:
        length = _length(name) + 2 * GAP
        if left > GAP and left + length > width:
            left, top = GAP, top + TEXT_HEIGHT
        places.append((left, top))
        left += length

    picture = Image.new("RGB", (width, top + TEXT_HEIGHT + GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (name, color), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 4, left + BOX, top + 4 + BOX), fill=color, outline=INK)
        _write(picture, (left + BOX + 5, top + TEXT_HEIGHT // 2), name, anchor="lm")
    return picture


def _length(name: str) -> int:
    """Return the pixels that a color box and its name take."""
    return BOX + 5 + math.ceil(_font().getlength(_one_line(name)))


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)


def _write(canvas: Image.Image, place: tuple[int, int], text: str, anchor: str) -> None:
    ImageDraw.Draw(canvas).text(place, _one_line(text), fill=INK, font=_font(), anchor=anchor)
