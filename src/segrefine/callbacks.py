"""What happens around training: timing, a line per epoch, panels of predictions."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from segrefine.panels import panel, save_atomically

log = logging.getLogger(__name__)


class Timer(Callback):
    """Images per second over all processes, in training (data loading included, validation not) or in a test.

    The first `WARM_UP` steps of a run are left out of the rate: kernels are chosen and memory is taken in them.
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
        """A run that goes on adds to what was measured before it stopped."""
        self.train_seconds, self.seconds = state_dict["train_seconds"], state_dict["seconds"]
        self.images = int(state_dict["images"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = time.perf_counter() - self.train_seconds

    def on_train_batch_start(self, *args: Any) -> None:
        if self._last is None:
            self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
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


class LastValidation(Callback):
    """Validates at the end of a training that `max_steps` ended within an epoch, where Lightning itself would not:
    the run would have no score and no checkpoint of its last steps.
    """

    def __init__(self) -> None:
        self.validated_at = -1

    def state_dict(self) -> dict[str, int]:
        return {"validated_at": self.validated_at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.validated_at = state_dict["validated_at"]

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.validated_at = trainer.global_step

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.validated_at != trainer.global_step:
            loop = trainer.fit_loop.epoch_loop
            trainer.validating = True
            loop._batches_that_stepped -= 1  # logged at the step just made, as within an epoch
            loop.val_loop.run()
            loop._batches_that_stepped += 1
            trainer.training = True


class GradientNorms(Callback):
    """Logs `gradient/encoder_stage1` to `5` and `gradient/decoder`: the norm of the gradient there, before clipping."""

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        net: Any = module.net
        # A fused optimizer takes float16's loss scale out of the gradients by itself, later.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler and getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        parts = {f"encoder_stage{number}": stage for number, stage in enumerate(net.encoder.stages, 1)}
        for name, layers in {**parts, "decoder": [net.decoder]}.items():
            gradients = [p.grad for layer in layers for p in layer.parameters() if p.grad is not None]
            module.log(f"gradient/{name}", torch.nn.utils.get_total_norm(gradients) / scale)


class EpochLine(Callback):
    """One line in the log per validation: what a progress bar shows, for files and for machines without a terminal."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        scores = trainer.callback_metrics
        rate = self.timer.images_per_second
        values = " ".join(
            f"{name} {float(scores[name]):.4f}"
            for name in ("train/loss", "val/loss", "val/mIoU", "val/boundary_IoU")
            if name in scores
        )
        epoch = trainer.fit_loop.epoch_progress.current.ready  # begun so far; at the end of training too
        log.info(f"epoch {epoch} step {trainer.global_step}: {values}" + (f" ({rate:.1f} images/s)" if rate else ""))


class PanelWriter(Callback):
    """After a validation, `panels/step_N.png` of a few images: input, truth, prediction and error; also to W&B."""

    IMAGES = 6

    def __init__(self, folder: Path, classes: list[str], palette: np.ndarray) -> None:
        self.folder, self.classes, self.palette = folder / "panels", classes, palette
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.chosen: set[int] = set()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        count = len(trainer.val_dataloaders.dataset)  # type: ignore[union-attr]
        world = trainer.world_size  # the first process, which writes, sees every so many-th image
        self.chosen = {index * count // self.IMAGES // world * world for index in range(self.IMAGES)}  # far apart

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        for index, image, label, prediction in zip(  # not strict: a blank batch has images, but no index
            batch["index"].tolist(), batch["image"], batch["label"], outputs, strict=False
        ):
            if index in self.chosen:
                row = (image.permute(1, 2, 0), label, prediction.to(torch.uint8))
                self.rows.append(tuple(tensor.cpu().numpy() for tensor in row))  # type: ignore[arg-type]

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        rows, self.rows = self.rows, []
        if not rows:
            return
        images, truths, predictions = (list(column) for column in zip(*rows, strict=True))
        picture = panel(images, truths, predictions, self.palette, self.classes)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_atomically(picture, self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/panel", [picture])
