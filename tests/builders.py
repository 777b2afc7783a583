"""Objects that many tests need, built from a few options."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrefine.core.config import read_group
from segrefine.core.options import make_options
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.recipe import Recipe


def make(kind: type[SegmentationDataModule], **options: Any) -> Any:
    """A data module of this class; options that are not given have the neutral defaults of the class."""
    return kind(make_options(kind.Options, options, "datamodule", "datamodule."))


def make_recipe(name: str = "default", **changes: Any) -> Recipe:
    """A recipe of the config group, with `changes`."""
    return Recipe.from_config(read_group("recipe", name) | changes)


def saved_pair(
    root: Path, split: str, stem: str, image: np.ndarray, mask: np.ndarray, extra: np.ndarray | None = None
) -> None:
    """An image, its mask and maybe what is behind RGB, as `datamodule=folder` looks for them."""
    for kind, pixels in (("images", image), ("masks", mask), ("extra", extra)):
        path = root / kind / split / f"{stem}.png"
        if pixels is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
