"""When checkpoints are written: best and last after every validation, last also now and then, and before a stop."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from segrefine.core.errors import NonFiniteError, UserError
from segrefine.core.signals import Stopped, StopRequest
from segrefine.engine.checkpoint_io import keep_previous, link
from segrefine.engine.loggers.csv import MetricsCSV
from segrefine.runs.folder import RunFolder
from segrefine.weights.checkpoint import KEY

log = logging.getLogger(__name__)

MONITOR = "val/mIoU"


class Checkpointing(Checkpoint):
    """`checkpoints/best.ckpt`, by val mIoU, and `checkpoints/last.ckpt`, from which a run goes on to the same end as if
    it had never stopped.

    Both are written after every validation; `last` also every so many minutes, and before the run ends because it was
    asked to (`stop`) or cannot go on. Within an epoch that is between two steps, of which nothing is half done: no
    gradient accumulated, nothing left to be logged. All processes of a run write at the same step.

    Args:
        folder: of the run. every_minutes: null for never. stop: what asks the run to stop.
        description: what `segrefine.weights.checkpoint.describe` gives, stored in every checkpoint.
    """

    def __init__(
        self, folder: RunFolder, every_minutes: float | None, stop: StopRequest, description: dict[str, Any]
    ) -> None:
        self.folder, self.best, self.last = folder, folder.best, folder.last
        self.every_minutes, self.stop, self.description = every_minutes, stop, description
        self.best_score = -math.inf
        self._saved_at = 0.0
        self._group: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.description
        for logger in _csv_loggers(trainer):
            logger.sync()  # a run that goes on from this checkpoint goes on from these rows

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        log.info(f"going on after {checkpoint['global_step']} steps, from {trainer.ckpt_path}")
        for logger in _csv_loggers(trainer):
            logger.resume(checkpoint["global_step"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # asks the host, without waiting for a GPU
        epoch_loop = trainer.fit_loop.epoch_loop
        if epoch_loop.restarting and epoch_loop.batch_progress.current.completed == 0:
            # An epoch of which nothing is done begins, and does not go on: Lightning takes 0 batches for a multiple of
            # those after which it validates, and loses count.
            epoch_loop.restarting = False
        if not trainer.strategy.broadcast(self.best.is_file()):  # as for a checkpoint taken out of its run's folder
            self.best_score = -math.inf
        self._saved_at = time.monotonic()
        self.stop.listen()  # Lightning has put its own answer to SIGTERM in place
        self.stop.patient = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stop.patient = False

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        if batch_index % trainer.accumulate_grad_batches:
            return  # within a step, whose gradients no checkpoint holds
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        due, number = self._agree(due, self.stop.received)
        if due or number:
            self._save_where_it_stands(trainer, self.last)
        if number:
            self._stop(trainer, number)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        # Several processes go on to the end of the validation, since they have not the same number of batches. So does
        # a training whose steps are all made: Lightning would not validate it when it goes on.
        if self.stop.received and self._group is None and not _all_steps_made(trainer):
            self._save_where_it_stands(trainer, self.last)
            self._stop(trainer, self.stop.received)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
        total.ready = total.started = total.completed  # see `_count_validation_as_ahead`

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        score = float(trainer.callback_metrics.get(MONITOR, math.nan))
        if score > self.best_score or self.best_score == -math.inf:  # the first is the best, even without a score
            self.best_score = max(self.best_score, score)  # which is what it was for NaN
            _save(trainer, self.best)
            if trainer.is_global_zero:
                keep_previous(self.last)
                link(self.best, self.last)
            trainer.strategy.barrier("checkpoint")
        else:
            _save(trainer, self.last)
        self._saved_at = time.monotonic()
        _, number = self._agree(False, self.stop.received)
        if number:
            self._stop(trainer, number)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.stop.patient = False
        if not isinstance(exception, Stopped):
            self._keep_what_was_trained(trainer, exception)
        trainer.fit_loop.teardown()  # ends reading processes, which Lightning forgets after an error in validation

    def _keep_what_was_trained(self, trainer: Trainer, exception: BaseException) -> None:
        """Save, where the weights are those of a step's end, what was trained since the last checkpoint."""
        if self._group is not None or (not trainer.training and not trainer.validating) or _all_steps_made(trainer):
            return  # the other processes may be gone; nothing was trained since
        done = _progress(trainer)
        between_steps = done.ready == done.completed and done.completed % trainer.accumulate_grad_batches == 0
        try:
            if isinstance(exception, NonFiniteError):
                path = self.folder.before_nonfinite
                if exception.before_step:
                    self._save_where_it_stands(trainer, path)
                    log.warning(f"The weights as they were before that step are in {path}.")
            elif between_steps and trainer.global_step:
                self._save_where_it_stands(trainer, self.last)
        except (UserError, OSError, RuntimeError) as error:
            log.warning(f"No checkpoint could be written of where the run stood: {error}")

    def _agree(self, due: bool, number: int) -> tuple[bool, int]:
        """What any process of the run wants, in all of them."""
        if self._group is None:
            return due, number
        wanted = torch.tensor([int(due), number])
        torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX, self._group)
        return bool(wanted[0]), int(wanted[1])

    def _save_where_it_stands(self, trainer: Trainer, path: Path) -> None:
        if trainer.validating:
            _count_validation_as_ahead(trainer)
            _save(trainer, path)
        else:
            with _between_steps(trainer):
                _save(trainer, path)
        self._saved_at = time.monotonic()

    def _stop(self, trainer: Trainer, number: int) -> None:
        log.warning(f"Stopped after {trainer.global_step} steps, saved.")
        raise Stopped(number, trainer.global_rank)


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint; NonFiniteError instead of one that nothing can be done with."""
    for name, tensor in trainer.lightning_module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds values that are not finite at step {trainer.global_step}. Lower recipe.lr, set "
                "recipe.clip_norm, or use trainer.precision=32-true. The checkpoints are from before."
            )
    trainer.save_checkpoint(path, weights_only=False)


def _progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.batch_progress.current


def _all_steps_made(trainer: Trainer) -> bool:
    return trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps


def _csv_loggers(trainer: Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


@contextmanager
def _between_steps(trainer: Trainer) -> Iterator[None]:
    """Lightning's counts without the batch at hand, which it has begun to count."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    counts, is_last = (progress.current, progress.total), progress.is_last_batch
    before = [(count.ready, count.started) for count in counts]
    for count in counts:
        count.ready = count.started = count.completed
    progress.is_last_batch = False
    yield
    for count, (ready, started) in zip(counts, before, strict=True):
        count.ready, count.started = ready, started
    progress.is_last_batch = is_last


def _count_validation_as_ahead(trainer: Trainer) -> None:
    """Lightning's counts as of a validation whose first batch was just begun, which it takes up from the start. The
    weights are what they were then, and of the scores so far nothing is kept."""
    progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.total.completed -= progress.current.completed
    progress.current.completed = 0
    for count in (progress.current, progress.total):
        count.processed = count.completed
        count.ready = count.started = count.completed + 1
