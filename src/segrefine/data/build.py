"""Build data modules by name, or from a config of the group `datamodule`."""

from collections.abc import Mapping
from typing import Any

from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.core.options import make_options
from segrefine.core.registry import DATAMODULES
from segrefine.data.datamodule import SegmentationDataModule


def create_datamodule(
    name: str, *, run_seed: int = 0, test_split: str | None = None, **options: Any
) -> SegmentationDataModule:
    """Build a data module by its name in the config group `datamodule`, with the options of that file.

    Example: `create_datamodule("folder", root="mydata", batch_size=4)`.

    Args:
        name: a value of the group, or a data module that a user registered.
        run_seed: see `SegmentationDataModule`.
        test_split: see `SegmentationDataModule`.
        options: options of the group that override those of the file.

    Raises:
        UserError: The name or an option is unknown, or a value is invalid.
    """
    return build_datamodule(read_group("datamodule", name) | options, run_seed, test_split)


def build_datamodule(
    config: Mapping[str, Any], run_seed: int = 0, test_split: str | None = None
) -> SegmentationDataModule:
    """Build the data module that a file of `conf/datamodule` describes; UserError for a wrong option."""
    kind = DATAMODULES.find(config.get(DATAMODULES.key))
    if not issubclass(kind, SegmentationDataModule):
        name = f"datamodule.{DATAMODULES.key}={config[DATAMODULES.key]}"
        raise UserError(f"{name}: {kind.__qualname__} must extend segrefine.FileDataModule or SegmentationDataModule.")
    given = {key: value for key, value in config.items() if key != DATAMODULES.key}
    options = make_options(kind.Options, given, f"datamodule={config.get('name')}", "datamodule.")
    datamodule = kind(options, run_seed, test_split)
    datamodule.prepare_data()  # downloads if asked to
    return datamodule
