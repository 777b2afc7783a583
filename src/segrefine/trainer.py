"""Lightning's Trainer as the commands use it."""

import logging
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger

from segrefine.precision import choose_precision

# What Lightning says of matters that are decided here on purpose.
_IDLE_WARNINGS = (
    ".*does not have many workers.*",  # generated scenes lie in memory
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*eval mode at the start of training.*",  # frozen norms
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*",
)


def create_trainer(
    options: dict[str, Any],
    folder: Path,
    callbacks: list[Callback],
    loggers: list[Logger] | None = None,
    clip_norm: float | None = None,
) -> Trainer:
    """A Trainer from the `trainer` config group, which writes under `folder`."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _IDLE_WARNINGS:
        warnings.filterwarnings("ignore", message)
    return Trainer(
        **options | {"precision": choose_precision(options["precision"], options["accelerator"])},
        gradient_clip_val=clip_norm,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=folder,
        enable_checkpointing=loggers is not None,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
    )


def peak_memory() -> int:
    """The most memory in use so far, bytes: PyTorch's on the GPU where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kibibytes
