"""Read and write per_image.csv: a row for each image, with its id and its counts `COUNT:CLASS`.

Rows add up, so any score of any subset follows from them (`segrefine.metrics.scores.scores_from_counts`).
"""

import csv
import gzip
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from segrefine.core.errors import UserError
from segrefine.io.atomic import replacing
from segrefine.metrics.scores import COUNTS, IMAGE_COUNTS

# File names that are not UTF-8 keep their bytes.
_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


class PerImage(NamedTuple):
    """N images, C kinds of counts and K classes by name, and the counts (N, C, K) int64."""

    images: tuple[str, ...]
    classes: tuple[str, ...]
    count_names: tuple[str, ...]
    counts: np.ndarray


def write_per_image(path: Path, images: Sequence[str], counts: np.ndarray, classes: Sequence[str]) -> None:
    """Write the counts (N, len(IMAGE_COUNTS), K) of N images."""
    with replacing(path) as part, part.open("w", **_TEXT) as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{count}:{name}" for count in IMAGE_COUNTS for name in classes)])
        writer.writerows([image, *row.flatten().tolist()] for image, row in zip(images, counts, strict=True))


def read_per_image(path: Path) -> PerImage:
    """Read the file, or the compressed one beside it.

    Raises:
        UserError: the file is missing, broken or holds no images.
    """
    try:
        with open_table(path) as file:
            columns = [column.split(":", 1) for column in next(csv.reader(file), [])[1:]]
            names = tuple(dict.fromkeys(name for name, _ in columns))
            classes = tuple(dict.fromkeys(name for _, name in columns))
            if names[: len(COUNTS)] != COUNTS or len(columns) != len(names) * len(classes):
                raise ValueError("its columns are not COUNT:CLASS")
            row = np.dtype([("image", object), ("counts", np.int64, (len(names), len(classes)))])
            # NumPy reads the many columns of integers several times faster than csv or pandas do.
            with warnings.catch_warnings(category=UserWarning, action="ignore"):  # of a file without rows
                table = np.loadtxt(file, row, delimiter=",", quotechar='"', comments=None, ndmin=1)
        if not len(table):
            raise ValueError("it holds no images")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"{path} is broken: {error}.") from error
    return PerImage(tuple(table["image"]), classes, names, table["counts"])


def open_table(path: Path) -> TextIO:
    """Open the .csv file or, if it is missing, the .csv.gz beside it."""
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file() and not path.is_file():
        return gzip.open(packed, "rt", **_TEXT)
    return path.open(**_TEXT)
