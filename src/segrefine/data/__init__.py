"""Data sets, their splits and loaders. Data knows no model: nothing here imports one."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from segrefine.errors import UserError, did_you_mean
from segrefine.targets import find_class

if TYPE_CHECKING:
    from segrefine.data.datamodule import SegmentationDataModule


def create_datamodule(config: Mapping[str, Any] | DictConfig) -> "SegmentationDataModule":
    """The data module that a file of conf/datamodule describes, its data downloaded if that is asked for. Raises
    UserError for options that make no sense."""
    from segrefine.data.datamodule import SegmentationDataModule  # and torch, which `--help` does without

    plain: Any = (
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        if isinstance(config, DictConfig)
        else dict(config)
    )
    kind = find_class("datamodule._target_", plain.pop("_target_", None), SegmentationDataModule)
    known = _options(kind)
    for option in plain:
        if option not in known:
            raise UserError(f"datamodule={plain.get('name')} has no option {option!r}.{did_you_mean(option, known)}")
    missing = [option for option, required in known.items() if required and option not in plain]
    if missing:
        raise UserError(f"datamodule={plain.get('name')} lacks the options {', '.join(missing)}.")
    datamodule = kind(**plain)
    datamodule.prepare_data()
    return datamodule


def _options(kind: type) -> dict[str, bool]:
    """What a data module is built with, by its signature and those it extends, and whether it has to be given."""
    signatures = [inspect.signature(vars(base)["__init__"]) for base in kind.__mro__ if "__init__" in vars(base)]
    options = [option for signature in signatures for option in signature.parameters.values()]
    return {option.name: option.default is option.empty for option in options if option.kind == option.KEYWORD_ONLY}
