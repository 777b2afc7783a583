"""Checkpoints of ours: what is stored beside the weights, and loading either into a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from segrefine.errors import UserError
from segrefine.weights_file import misfits, read_file, read_tensors

KEY = "segrefine"
"""The entry of a Lightning checkpoint under which `describe` is stored."""

_PREFIX = "net."  # the network's place in the LightningModule


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run: its resolved config, class names, palette (K, 3) uint8 RGB and the network's tensors."""

    config: dict[str, Any]
    classes: list[str]
    palette: np.ndarray
    tensors: dict[str, Tensor]


def describe(config: dict[str, Any], classes: list[str], palette: np.ndarray) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain containers, so that PyTorch's weights-only loader reads it."""
    return {"config": config, "classes": list(classes), "palette": palette.tolist()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours; UserError for a file that is not one."""
    content = read_file(path)
    if KEY not in content or "state_dict" not in content:
        raise UserError(
            f"{path} is not a checkpoint of segrefine (it has no entry {KEY!r}): give checkpoints/best.ckpt of a run."
        )
    about = content[KEY]
    palette = np.asarray(about["palette"], np.uint8)
    return Checkpoint(about["config"], about["classes"], palette, _network(content["state_dict"]))


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Fill `net` from a checkpoint of a run, or from a file of the network's own `state_dict`.

    Every tensor must be there with its shape and none left over: UserError names those that do not fit.
    """
    load_tensors(net, _network(read_tensors(Path(path))), path)


def load_tensors(net: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """`net.load_state_dict(tensors)`, with all that does not fit named in one UserError."""
    problems = misfits(net.state_dict(), tensors)
    if problems:
        raise UserError(f"{source} does not fit the network. {problems}.")
    net.load_state_dict(tensors)


def _network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors: those of a LightningModule carry a prefix."""
    inside = {name[len(_PREFIX) :]: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    return inside or tensors
