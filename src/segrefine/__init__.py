"""segrefine: FCN and RefineNet compared fairly. `create_model` builds a network by name, `load_weights` fills it."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["UserError", "create_model", "load_weights"]


def __getattr__(name: str) -> Any:
    """Import on first use: `--help` and config errors must not wait for torch."""
    if name == "create_model":
        from segrefine.model import create_model

        return create_model
    if name == "load_weights":
        from segrefine.checkpoints import load_weights

        return load_weights
    if name == "UserError":
        from segrefine.errors import UserError

        return UserError
    raise AttributeError(f"module 'segrefine' has no attribute {name!r}")
