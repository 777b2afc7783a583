"""Pair the files of a data set: images with labels and, beside RGB, with further channels."""

from pathlib import Path
from typing import NamedTuple

from segrefine.core.errors import UserError
from segrefine.io.images import NameOf, find_images, stem_of


class Example(NamedTuple):
    """An image file with its label file; the id names it within its split.

    `extra` is the file of the channels behind red, green and blue, where the data has any.
    """

    id: str
    image: Path
    label: Path
    extra: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the example."""
        return [path for path in (self.image, self.label, self.extra) if path is not None]


def pair_files(images: Path, labels: Path, image_id: NameOf = stem_of, label_id: NameOf = stem_of) -> list[Example]:
    """Pair the images and labels that have the same id, by default their stem. A file without an id is skipped.

    An image without a label, or a label without an image, is paired with the missing name, ID.*. The missing file is
    then reported by name when it is read or checked.

    Raises:
        UserError: there are no images at all.
    """
    image_files, label_files = find_images(images, image_id), find_images(labels, label_id)
    if not image_files:
        raise UserError(f"There are no image files in {images}.")
    return [
        Example(name, image_files.get(name, images / f"{name}.*"), label_files.get(name, labels / f"{name}.*"))
        for name in sorted(image_files.keys() | label_files.keys())
    ]


def with_extra(examples: list[Example], folder: Path) -> list[Example]:
    """Return the examples with the file of the same id in `folder`, or the missing name, ID.*, as `pair_files` does."""
    files = find_images(folder)
    return [each._replace(extra=files.get(each.id, folder / f"{each.id}.*")) for each in examples]
