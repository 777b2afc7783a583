"""segrefine: FCN and RefineNet compared fairly. `create_model` builds a network by name, `load_model` a trained one."""

import importlib
from importlib.metadata import version
from typing import Any

_PLACES = {
    "UserError": "core.errors",
    "register_datamodule": "core.registry",
    "register_decoder": "core.registry",
    "list_backbones": "core.config",
    "list_datasets": "core.config",
    "list_models": "core.config",
    "Decoder": "models.decoders",
    "create_model": "models.build",
    "create_datamodule": "data.build",
    "FileDataModule": "data.files",
    "SegmentationDataModule": "data.datamodule",
    "load_model": "weights.checkpoint",
    "load_weights": "weights.checkpoint",
}

__version__ = version("segrefine")
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `--help` and mistakes in options do not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'segrefine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segrefine.{_PLACES[name]}"), name)
