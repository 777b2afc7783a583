"""Read files of tensors without running code from them.

PyTorch's weights-only loader reads .pth, .pt and .ckpt, safetensors reads .safetensors, and protobuf reads .caffemodel.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segrefine.core.errors import UserError, listing
from segrefine.io.caffemodel import read_caffemodel

_PARALLEL = "module."  # before each name in a file that torch.nn.DataParallel saved


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of tensors: a dictionary of tensors, or a checkpoint's dictionary.

    Tensors are on the CPU and keep the file's dtypes.

    Raises:
        UserError: the file is missing, cannot be read, holds other objects, or is no dictionary.
    """
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file of weights, such as the best checkpoint of a run.")
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".caffemodel":
            return dict(read_caffemodel(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except KeyError as error:  # pickle's, of a byte that means nothing to it
        raise UserError(f"{path} holds no tensors. It should be a .pth, .safetensors or .caffemodel file.") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read: {first_line(error)}. Is it whole, and a .pth, .safetensors or .caffemodel file?"
        ) from error
    except Exception as error:  # pickle's own errors share no base class
        raise UserError(
            f"{path} contains objects other than tensors and plain values. Loading it could execute code, so it was "
            f"refused ({first_line(error)})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} where a dictionary of tensors was expected.")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the file's tensors by name."""
    return find_tensors(read_file(path), path)


def find_tensors(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file's content by name. Training scripts often keep them in a dictionary beside others.

    Raises:
        UserError: an entry is not a tensor with a name.
    """
    for key in ("state_dict", "model_state_dict", "model", "segmenter"):
        if isinstance(content.get(key), dict):
            content = content[key]
    if numbered := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"{path}: a tensor in it is named by {numbered[0]!r}, not by a word.")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor.")
    if content and all(key.startswith(_PARALLEL) for key in content):
        content = {key.removeprefix(_PARALLEL): value for key, value in content.items()}
    return content


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> str:
    """Describe which of the `wanted` tensors are missing, unknown or of another shape; "" if none.

    The `optional` ones may be missing. So may batch norm's counters of batches, which files from before PyTorch 0.4
    lack and nothing uses.
    """
    absent = wanted.keys() - tensors.keys() - set(optional)
    problems = {
        "missing": sorted(name for name in absent if not name.endswith("num_batches_tracked")),
        "unknown": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted.keys() & tensors.keys()
            if tensors[name].shape != wanted[name].shape
        ),
    }
    return "; ".join(f"{what}: {listing(names)}" for what, names in problems.items() if names)


def first_line(error: Exception) -> str:
    """Return the error in one line, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that two sets of tensors share only if they are equal (the first of a SHA-256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
