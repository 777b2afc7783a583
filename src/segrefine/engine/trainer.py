"""Lightning's Trainer as the commands use it."""

import contextlib
import inspect
import logging
import resource
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from segrefine.core.errors import UserError
from segrefine.core.options import Count, Share, check_names, check_values
from segrefine.engine.checkpoint_io import WholeCheckpointIO
from segrefine.engine.precision import choose_precision

# Lightning warnings about settings that are chosen deliberately.
_IDLE_WARNINGS = (
    ".*does not have many workers.*",  # generated scenes lie in memory
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*eval mode at the start of training.*",  # frozen norms
    ".*smaller than the logging interval.*",
    ".*your dataloader is not resumable.*",  # it is: the data module knows where it was
    ".*LeafSpec.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # of older versions
    ".*GPU available but not used.*",  # trainer=cpu, device=cpu
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # scores are summed over the processes already
)

_TALKATIVE = (
    "pytorch.utilities.rank_zero",
    "pytorch.accelerators.cuda",
    "pytorch.trainer.connectors.signal_connector",
    "fabric.utilities.distributed",
)

Limit = Count | Share
"""A number of batches, or a share of them."""

Endless = Count | Literal[-1]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Options of `conf/trainer/*.yaml`: those of Lightning's Trainer that every run has.

    Others of the Trainer's are given with a plus, such as `+trainer.profiler=simple`, unless `INSTEAD` lists them.
    """

    accelerator: str
    devices: int | str | Sequence[int]
    strategy: str
    num_nodes: Count
    precision: str
    max_epochs: Endless
    max_steps: Endless
    check_val_every_n_epoch: Count | None
    log_every_n_steps: Count
    accumulate_grad_batches: Count
    sync_batchnorm: bool
    limit_train_batches: Limit
    limit_val_batches: Limit
    limit_test_batches: Limit
    val_check_interval: Limit = 1.0  # given with a plus
    early_stopping: Count | None = None


INSTEAD = {
    "gradient_clip_val": "recipe.clip_norm",
    "gradient_clip_algorithm": "recipe.clip_norm, which is of the norm",
    "logger": "the group logger",
    "callbacks": "a script of your own around segrefine.engine",
    "plugins": "a script of your own around segrefine.engine",
    "default_root_dir": "hydra.run.dir",
    "deterministic": "deterministic=true",
    "enable_checkpointing": "checkpoint_every_minutes",
    "num_sanity_val_steps": "trainer=debug",
    "use_distributed_sampler": "the data modules, which share images among processes",
}
"""Arguments of the Trainer that segrefine sets itself -> what a user gives instead."""


def check_trainer(options: dict[str, Any], prefix: str = "trainer.") -> None:
    """Raise UserError for options of the Trainer that are unknown, of another type or out of range."""
    own = [field.name for field in fields(TrainerOptions)]
    for name, instead in INSTEAD.items():
        if name in options:
            raise UserError(f"trainer.{name} has no effect here. Use {instead}.")
    check_names("trainer", options, {*own, *inspect.signature(Trainer).parameters} - INSTEAD.keys())
    check_values(TrainerOptions, {name: options[name] for name in own if name in options}, prefix)
    if options.get("max_epochs") == options.get("max_steps") == -1:
        raise UserError("The training has no end: set trainer.max_epochs or trainer.max_steps to 1 or more.")


def check_share(limit: int | float, batches: int, split: str) -> None:
    """Raise UserError for a share of a split's batches that is less than one."""
    if isinstance(limit, float) and int(limit * batches) < 1:
        raise UserError(f"trainer.limit_{split}_batches={limit} leaves none of {batches} batches.")


def create_trainer(
    options: dict[str, Any],
    folder: Path,
    callbacks: list[Callback],
    deterministic: bool = False,
    prefix: str = "trainer.",
) -> Trainer:
    """Create a Trainer without loggers.

    Args:
        options: the group `trainer`, or the part of it that a command takes.
        folder: where it writes.
        callbacks: one of them a `Checkpoint` where training is to be saved.
        deterministic: whether to take only algorithms that give the same numbers every time.
        prefix: what stands before an option's name on the command line.

    Raises:
        UserError: The options conflict with each other or with this machine.
    """
    _silence()
    check_trainer(options, prefix)
    precision = choose_precision(options["precision"], options["accelerator"], f"{prefix}precision")
    options = options | {"enable_progress_bar": shows_bar(options), "precision": precision}
    options.pop("early_stopping", None)  # a callback of the training
    try:
        return Trainer(
            **options,
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
            deterministic=deterministic,
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data modules share images among processes, none twice
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(f"The trainer options conflict with each other or with this machine: {error}") from error


def shows_bar(options: dict[str, Any]) -> bool:
    """Return whether there is a progress bar: on a terminal, where the options do not say."""
    return bool(options.get("enable_progress_bar", sys.stderr.isatty()))


def _silence() -> None:
    for name in _TALKATIVE:
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)
    for message in _IDLE_WARNINGS:
        warnings.filterwarnings("ignore", message)


def is_rank_zero() -> bool:
    """Return whether this process is the first of a run, the one that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def quiet_others() -> None:
    """Let only the first process of a run log more than errors, since it speaks for all of them."""
    if not is_rank_zero():
        logging.getLogger().setLevel(logging.ERROR)


def reset_peak_memory() -> None:
    """Reset the counter, so that a run of a sweep does not report the peak of the run before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux alone has it, and not in every container
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory, see proc(5)


def peak_memory(device: torch.device) -> int:
    """Most memory in use since `reset_peak_memory`, bytes: PyTorch's on a GPU, else the process's resident memory.

    Give the trainer's device: the module is back on the CPU after every run of the trainer.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # counted in bytes there, else in kibibytes
