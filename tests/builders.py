"""Objects that many tests need, built from a few options."""

from typing import Any

from segrefine.core.config import read_group
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.recipe import Recipe


def make(kind: type[SegmentationDataModule], **options: Any) -> Any:
    """A data module of this class; options that are not given have the neutral defaults of the class."""
    return kind(kind.Options(**options))


def make_recipe(name: str = "default", **changes: Any) -> Recipe:
    """A recipe of the config group, with `changes`."""
    return Recipe.from_config(read_group("recipe", name) | changes)
