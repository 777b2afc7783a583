"""Lightning's Trainer as the commands use it."""

import contextlib
import logging
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from segrefine.core.errors import UserError
from segrefine.engine.checkpoint_io import WholeCheckpointIO
from segrefine.engine.precision import choose_precision

# What Lightning says of matters that are decided here on purpose.
_IDLE_WARNINGS = (
    ".*does not have many workers.*",  # generated scenes lie in memory
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*eval mode at the start of training.*",  # frozen norms
    ".*smaller than the logging interval.*",
    ".*your dataloader is not resumable.*",  # it is: the data module knows where it was
    ".*LeafSpec.*",
    ".*GPU available but not used.*",  # trainer=cpu, device=cpu
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # scores are summed over the processes already
)

_TALKATIVE = (
    "pytorch.utilities.rank_zero",
    "pytorch.accelerators.cuda",
    "pytorch.trainer.connectors.signal_connector",
    "fabric.utilities.distributed",
)


def create_trainer(
    options: dict[str, Any],
    folder: Path,
    callbacks: list[Callback],
    loggers: list[Logger] | None = None,
    prefix: str = "trainer.",
) -> Trainer:
    """Build a Trainer from the `trainer` config group, which writes under `folder`; `prefix` is that of the options."""
    for name in _TALKATIVE:
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)
    for message in _IDLE_WARNINGS:
        warnings.filterwarnings("ignore", message)
    precision = choose_precision(options["precision"], options["accelerator"], f"{prefix}precision")
    options = {"enable_progress_bar": sys.stderr.isatty()} | options | {"precision": precision}
    try:
        return Trainer(
            **options,
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
            logger=loggers or False,
            default_root_dir=folder,
            enable_checkpointing=loggers is not None,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data modules share out the images themselves, none twice
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"The trainer's options do not go together or not with this machine: {error}") from error


def is_rank_zero() -> bool:
    """Whether this process is the first of a run, the one that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def reset_peak_memory() -> None:
    """Start counting anew, so that a run of a sweep is not charged with the one before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux alone has it, and not in every container
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory, see proc(5)


def peak_memory(device: torch.device) -> int:
    """Most memory in use since `reset_peak_memory`, bytes: PyTorch's on a GPU, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # counted in bytes there, else in kibibytes
