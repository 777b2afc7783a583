"""Data sets, their splits and loaders. Data knows no model: nothing here imports one."""

from typing import TYPE_CHECKING

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from segrefine.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from segrefine.data.datamodule import SegmentationDataModule


def create_datamodule(config: "DictConfig") -> "SegmentationDataModule":
    """The data module that a file of conf/datamodule describes, its data downloaded if that is asked for. Raises
    UserError for options that make no sense."""
    try:
        datamodule = instantiate(config)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    datamodule.prepare_data()
    return datamodule
