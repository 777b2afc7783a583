"""Report the speed of training, a bar on a terminal, and a line in the log for each validation."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


class Throughput(Callback):
    """Images per second over all processes, in training (data loading included, validation not) or in a test.

    The rate skips the first `WARM_UP` steps of a run, which select kernels and allocate memory.
    """

    WARM_UP = 2

    def __init__(self) -> None:
        self.started = self.seconds = self.train_seconds = 0.0
        self.steps = self.images = 0
        self._last: float | None = None

    def state_dict(self) -> dict[str, float]:
        train_seconds = time.perf_counter() - self.started if self.started else self.train_seconds
        return {"train_seconds": train_seconds, "seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Add to what was measured before the run was interrupted."""
        self.train_seconds, self.seconds = state_dict["train_seconds"], state_dict["seconds"]
        self.images = int(state_dict["images"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = time.perf_counter() - self.train_seconds

    def on_train_batch_start(self, *args: Any) -> None:
        if self._last is None:
            self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        now = time.perf_counter()
        self.steps += 1
        if self.steps > self.WARM_UP and self._last is not None:
            self.seconds += now - self._last
            self.images += len(batch["id"]) * trainer.world_size
        self._last = now

    on_test_batch_start = on_train_batch_start  # type: ignore[assignment]
    on_test_batch_end = on_train_batch_end  # type: ignore[assignment]

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._last = None

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._last, self.seconds, self.steps, self.images = None, 0.0, 0, 0

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.train_seconds = time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds else None


class StepLog(Callback):
    """Log the values of every `log_every_n_steps`-th step as soon as it is made.

    Lightning's own `self.log` writes them after the hook in which checkpoints are saved, so a resumed run would lack
    the row of the step that it resumes from.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        whole_step = trainer.is_last_batch or (batch_index + 1) % trainer.accumulate_grad_batches == 0
        if not whole_step or trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self.last = {name: float(value) for name, value in module.step_values.items()}
        values = self.last | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)
            logger.save()


class TrainingBar(RichProgressBar):
    """A bar on a terminal: the last logged loss, the last validation mIoU, images per second, and the time left.

    The time left assumes that the rest takes as long a step as the steps so far, validation included.
    """

    def __init__(self, timer: Throughput, steps: StepLog) -> None:
        super().__init__(console_kwargs={"stderr": True})  # where the log goes
        self.timer, self.steps = timer, steps

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Return the epoch, the bar and the batches; batches a second and the time of the epoch would leave no room."""
        return super().configure_columns(trainer)[:3]

    def _get_train_description(self, current_epoch: int) -> str:
        """Return the epoch, counted from 1 as in the log. Lightning counts from 0."""
        last = f"/{self.trainer.max_epochs}" if (self.trainer.max_epochs or -1) > 0 else ""
        return f"{f'Epoch {current_epoch + 1}{last}':{len(self.validation_description)}}"  # of one width

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, int | str | float]:  # type: ignore[override]
        values: dict[str, int | str | float] = {}
        done, steps = trainer.global_step, trainer.estimated_stepping_batches
        if done and steps != float("inf"):
            seconds = (time.perf_counter() - self.timer.started) / done * (steps - done)
            values["left"] = str(timedelta(seconds=round(max(seconds, 0))))
        if "train/loss" in self.steps.last:
            values["loss"] = self.steps.last["train/loss"]
        if "val/mIoU" in trainer.callback_metrics:
            values["mIoU"] = float(trainer.callback_metrics["val/mIoU"])
        if rate := self.timer.images_per_second:
            values["images/s"] = f"{rate:.1f}"
        return values


class EpochLine(Callback):
    """One line in the log per validation, and per epoch without one: what a progress bar shows, for files."""

    def __init__(self, timer: Throughput) -> None:
        self.timer, self.step = timer, 0

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._write(trainer, ("train/loss", "val/loss", "val/mIoU", "val/boundary_IoU"))

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.step != trainer.global_step:
            self._write(trainer, ("train/loss",))  # scores of val would be those of an earlier epoch

    def _write(self, trainer: Trainer, names: Sequence[str]) -> None:
        self.step, scores, rate = trainer.global_step, trainer.callback_metrics, self.timer.images_per_second
        values = " ".join(f"{name} {float(scores[name]):.4f}" for name in names if name in scores)
        log.info(
            f"epoch {trainer.current_epoch + 1} step {trainer.global_step}: {values}"
            + (f" ({rate:.1f} images/s)" if rate else "")
        )


class ScoringLines(Callback):
    """Lines in the log while a split is scored, where no progress bar shows how far it is.

    One line at the start, and one for every tenth of the batches, at least `SECONDS` after the line before.
    """

    SECONDS = 10.0

    def __init__(self, split: str) -> None:
        self.split, self.said = split, 0.0

    @rank_zero_only
    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.said = time.perf_counter()
        log.info(f"scoring the images of {self.split}")

    @rank_zero_only
    def on_test_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, *_: Any
    ) -> None:
        count = int(sum(trainer.num_test_batches))
        before, done = (10 * batches // count for batches in (batch_index, batch_index + 1))
        if before < done < 10 and time.perf_counter() - self.said >= self.SECONDS:
            self.said = time.perf_counter()
            log.info(f"{10 * done} % of the images scored")
