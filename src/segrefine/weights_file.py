"""Reading files of tensors: .pth / .pt / .ckpt through PyTorch's weights-only loader, .safetensors through safetensors.

Neither runs code from the file.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segrefine.errors import UserError, listing


def read_file(path: Path) -> dict[str, Any]:
    """What the file holds: a dictionary of tensors, or a checkpoint's dictionary. On the CPU, at the file's own
    dtypes.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read: {first_line(error)}. Is it whole, and a .pth or .safetensors file?"
        ) from error
    except Exception as error:  # pickle's own errors share no base class
        raise UserError(
            f"{path} is no file of tensors and plain values, and reading anything else could run code from it "
            f"({first_line(error)})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} where a dictionary of tensors was expected.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name; a dictionary kept under "state_dict" or "model" is taken from there."""
    content = read_file(path)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    numbered = [key for key in content if not isinstance(key, str)]
    if numbered:
        raise UserError(f"{path}: a tensor in it is named by {numbered[0]!r}, not by a word.")
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise UserError(f"{path}: {strangers[0]!r} is a {type(content[strangers[0]]).__name__}, not a tensor.")
    return content


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> str:
    """In words, which of the `wanted` tensors are missing (the `optional` may be), unknown or of another shape; "" if
    none.
    """
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys() - set(optional)),
        "unknown": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted.keys() & tensors.keys()
            if tensors[name].shape != wanted[name].shape
        ),
    }
    return "; ".join(f"{what}: {listing(names)}" for what, names in problems.items() if names)


def first_line(error: Exception) -> str:
    """The error in one line, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
