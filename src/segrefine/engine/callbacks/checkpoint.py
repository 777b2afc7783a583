"""When checkpoints are written: best and last after every validation, last also at intervals and before a stop."""

import logging
import math
import time
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
    """Write `checkpoints/best.ckpt`, by val mIoU, and `checkpoints/last.ckpt`, from which an interrupted run resumes.

    A resumed run ends with the weights, scores and rows of a run that was never interrupted. Lightning guarantees this
    for checkpoints saved at the end of a validation, and at the end of a training batch that is followed by another
    one (`_may_save`). Both are used here and nothing else: a signal that arrives at any other moment waits for the next
    of them. All processes of a run save at the same step.

    Args:
        folder: the run's folder.
        every_minutes: how often to save within an epoch; None for validations only.
        stop: what asks the run to stop.
        description: what `segrefine.weights.checkpoint.describe` returns, stored in every checkpoint.
    """

    def __init__(
        self, folder: RunFolder, every_minutes: float | None, stop: StopRequest, description: dict[str, Any]
    ) -> None:
        self.folder, self.best, self.last = folder, folder.best, folder.last
        self.every_minutes, self.stop, self.description = every_minutes, stop, description
        self.best_score, self._saved_at = -math.inf, 0.0
        self._group: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.description
        for logger in _csv_loggers(trainer):
            logger.sync()  # a run that resumes from this checkpoint keeps these rows

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        log.info(f"resuming after {checkpoint['global_step']} steps from {trainer.ckpt_path}")
        for logger in _csv_loggers(trainer):
            logger.resume(checkpoint["global_step"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        _check_interval(trainer)
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")  # asks the host, without waiting for a GPU
        if not trainer.strategy.broadcast(self.best.is_file()):  # as for a checkpoint moved out of its run's folder
            self.best_score = -math.inf
        self._saved_at = time.monotonic()
        self.stop.listen()  # Lightning has installed its own handler of SIGTERM
        self.stop.patient = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stop.patient = False

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if not _may_save(trainer, batch_index):
            return
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        due, number = self._agree(due, self.stop.received)
        if due or number:
            _save(trainer, self.last)
            self._saved_at = time.monotonic()
        self._stop_if_asked(trainer, number)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        score = float(trainer.callback_metrics.get(MONITOR, math.nan))
        if score > self.best_score or self.best_score == -math.inf:  # the first is the best, even without a score
            self.best_score = max(self.best_score, score)  # unchanged if the score is NaN
            _save(trainer, self.best)
            if trainer.is_global_zero:
                keep_previous(self.last)
                link(self.best, self.last)
            trainer.strategy.barrier("checkpoint")
        else:
            _save(trainer, self.last)
        self._saved_at = time.monotonic()
        _, number = self._agree(False, self.stop.received)
        self._stop_if_asked(trainer, number)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.stop.patient = False
        if isinstance(exception, NonFiniteError) and exception.before_step and self._group is None:
            self._keep_for_inspection(trainer)
        trainer.fit_loop.teardown()  # ends reading processes, which Lightning forgets after an error in validation

    def _keep_for_inspection(self, trainer: Trainer) -> None:
        """Save the weights from before a step whose loss is not finite; they are for init_from, not for a resume."""
        try:
            _save(trainer, self.folder.before_nonfinite)
            log.warning(f"The weights as they were before that step are in {self.folder.before_nonfinite}.")
        except (UserError, OSError, RuntimeError) as error:
            log.warning(f"The weights from before that step could not be saved: {error}")

    def _agree(self, due: bool, number: int) -> tuple[bool, int]:
        """Return what any process of the run wants, in all of them."""
        if self._group is None:
            return due, number
        wanted = torch.tensor([int(due), number])
        torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX, self._group)
        return bool(wanted[0]), int(wanted[1])

    def _stop_if_asked(self, trainer: Trainer, number: int) -> None:
        if number:
            log.warning(f"Stopped after {trainer.global_step} steps, saved.")
            raise Stopped(number, trainer.global_rank)


def _may_save(trainer: Trainer, batch_index: int) -> bool:
    """Return whether Lightning resumes exactly from here.

    It does after a whole optimizer step, within an epoch, and not right before a validation, which it would skip.
    """
    if trainer.is_last_batch or trainer.should_stop or (batch_index + 1) % trainer.accumulate_grad_batches:
        return False
    earlier = 0 if trainer.check_val_every_n_epoch else trainer.current_epoch * trainer.num_training_batches
    interval: Any = trainer.val_check_batch  # inf for none
    return (earlier + batch_index + 1) % interval != 0


def _check_interval(trainer: Trainer) -> None:
    """Raise UserError for validations that no checkpoint can be saved at."""
    interval: Any = trainer.val_check_batch
    whole, epoch = trainer.accumulate_grad_batches, trainer.num_training_batches
    ends_epoch = interval == epoch and trainer.check_val_every_n_epoch is not None
    by_epoch = trainer.check_val_every_n_epoch is not None or epoch % whole == 0
    if interval != math.inf and not ends_epoch and (interval % whole or not by_epoch):
        raise UserError(
            f"A validation every {interval} batches falls within a step of trainer.accumulate_grad_batches={whole}. "
            "Give a trainer.val_check_interval that it divides."
        )


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint; NonFiniteError for weights that are not finite, from which nothing could resume."""
    for name, tensor in trainer.lightning_module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds values that are not finite at step {trainer.global_step}. Lower recipe.lr, set "
                "recipe.clip_norm, or use trainer.precision=32-true. The checkpoints are from before."
            )
    trainer.save_checkpoint(path, weights_only=False)


def _csv_loggers(trainer: Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
