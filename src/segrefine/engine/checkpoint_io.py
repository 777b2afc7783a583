"""Write checkpoints that are complete at any moment, and keep the one before the last."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from segrefine.io.atomic import replacing
from segrefine.runs.folder import RunFolder, previous


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes under another name, synced and then renamed, so that a kill at any moment leaves the earlier file.

    The earlier file of the last checkpoint stays as last.previous.ckpt, in case the disk damages the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        with replacing(path) as part:
            _save(checkpoint, part)
            if path.name == Path(RunFolder.LAST).name:
                keep_previous(path)


def keep_previous(path: Path) -> None:
    """Give the checkpoint that is about to be replaced its second name."""
    if path.is_file():
        link(path, previous(path))


def link(path: Path, second_name: Path) -> None:
    """Give a file another name, at which there is a file all the time. Copy it where there are no links."""
    with replacing(second_name) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Like `torch.save`, but re-raise the OSError (for example, disk full) that PyTorch hides behind a RuntimeError."""
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
