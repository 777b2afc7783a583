"""The LightningModule: loss, steps, logged scores, optimizer groups. It depends on no particular network."""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from segrefine.core.errors import NonFiniteError, UserError
from segrefine.core.labels import VOID
from segrefine.core.seeding import mix
from segrefine.engine.optim import center_updates, create_optimizer, filters, parameter_groups
from segrefine.engine.recipe import Recipe
from segrefine.metrics.calibration import Calibration
from segrefine.metrics.scores import SCORES
from segrefine.metrics.segmentation import SegmentationMetrics
from segrefine.models.encoders.base import pad_small
from segrefine.models.logits import Logits
from segrefine.models.network import SegmentationModel
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.checkpoint import read_checkpoint, restore_run

log = logging.getLogger(__name__)

Batch = dict[str, Any]
"""image (B, C, H, W) uint8; label (B, H, W) uint8 with void 255; id list of str; index (B,) int64."""


class SegmentationModule(LightningModule):
    """Trains and scores a `SegmentationModel`.

    Args:
        net: the network.
        recipe: how it is trained, resolved; None for a module that only scores.
        inference: how a batch is scored in `test`: several scales, flips, sliding windows.
        seed: the run's, from which every step draws what is random in the network (dropout).
        calibrated: whether `test` also counts how far probabilities can be trusted.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        net: SegmentationModel,
        recipe: Recipe | None = None,
        inference: TestTimeAugmentation | None = None,
        seed: int = 0,
        calibrated: bool = False,
    ) -> None:
        super().__init__()
        self.net, self._recipe = net, recipe
        if recipe and recipe.loss_at == "scores":
            net.decoder.to_pixels.requires_grad_(False)  # the loss does not see it, so it stays as it starts
        self.inference = inference or TestTimeAugmentation(net)
        self.seed, self.skipped_steps = seed, 0
        self._skips = recipe is not None and recipe.on_nonfinite == "skip"
        self.step_values: dict[str, Tensor | float] = {}  # of the step at hand, for the loggers
        self._statistics: list[Tensor] = []  # of batch norm, before the step at hand; where steps may be skipped
        self._losses_finite: Tensor | bool = True  # those of all batches of the step at hand
        weights = recipe.class_weights if recipe else None
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.val_metrics = SegmentationMetrics(net.num_classes)
        self.test_metrics = SegmentationMetrics(net.num_classes, keep_images=True)
        self.calibration = Calibration() if calibrated else None
        self.train()  # Lightning starts in the modes it finds, so frozen norms must be in theirs by now

    @property
    def recipe(self) -> Recipe:
        if self._recipe is None:
            raise UserError("This module was made to score a network. Give it a recipe to train or validate one.")
        return self._recipe

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, **options: Any
    ) -> "SegmentationModule":
        """Build the module of a run's checkpoint.

        Args:
            checkpoint_path: such as checkpoints/best.ckpt of a run.
            map_location: the device to put it on; the CPU unless given.
            options: of the constructor, such as `inference`.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        net = restore_run(checkpoint)
        recipe = Recipe.from_config(checkpoint.config["recipe"])
        module = cls(net, **{"recipe": recipe.without_data()} | options)
        return module if map_location is None else module.to(map_location)

    def setup(self, stage: str) -> None:
        self.net.lay_out(self.trainer.strategy.root_device)

    def train(self, mode: bool = True) -> "SegmentationModule":
        """Set the mode as `nn.Module.train` does, but keep the encoder's batch norm in eval mode if it is frozen."""
        super().train(mode)
        frozen = self._recipe is None or self._recipe.frozen_norm
        for module in self.net.encoder.modules():
            if mode and isinstance(module, _BatchNorm) and (frozen or not module.weight.requires_grad):
                module.eval()
        return self

    def images(self, batch: Batch) -> Tensor:
        """Return the batch's images as the network takes them: (B, C, H, W) float32, normalized, small ones padded."""
        return self.net.from_pixels(batch["image"])

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        batches = self.trainer.current_epoch * int(self.trainer.num_training_batches) + batch_index  # so far
        torch.manual_seed(mix(self.seed, batches, self.global_rank))
        self._ids = batch["id"]
        if self._skips and batch_index % self.trainer.accumulate_grad_batches == 0:
            self._statistics = [buffer.clone() for buffer in self.net.buffers()]
            self._losses_finite = True

    @property
    def halves(self) -> bool:
        """Whether the training is in the part that sees images of half the size."""
        share = self.recipe.progressive_resizing
        return bool(share) and self.global_step < share * self.trainer.estimated_stepping_batches

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        batch = halve(batch) if self.halves else batch
        labels = pad_small(batch["label"], VOID)
        logits = Logits(self.net, self.images(batch), self.recipe.loss_at)
        loss = logits.loss(labels, self.class_weights, self.recipe.loss)
        self._loss = loss.detach()
        if self._skips:
            self._losses_finite = self._losses_finite & torch.isfinite(self._loss)
        self.log("train/loss", self._loss, prog_bar=True, logger=False)
        # The rate of the recipe; the encoder's is a fixed multiple of it.
        self.step_values = {"train/loss": self._loss, "lr": self._rates()["decoder/weights"]}
        if not self._skips and self._may_look(loss, batch_index) and not torch.isfinite(loss):
            # Without a GPU every step is looked at, and the weights are still those from before it.
            raise NonFiniteError(
                self._describe(f"The loss became {loss.item()}"), before_step=loss.device.type == "cpu"
            )
        return loss

    def _may_look(self, loss: Tensor, batch_index: int) -> bool:
        """Return whether to look at a value: on a GPU, which waits for that, only as often as the log is written."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        last = batch_index + 1 == self.trainer.num_training_batches
        return loss.device.type == "cpu" or batch_index % every == 0 or last

    def _describe(self, what: str) -> str:
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in self._rates().items())
        return (
            f"{what} at step {self.global_step} (learning rates: {rates}; images: {', '.join(self._ids)}). Lower "
            "recipe.lr, set recipe.clip_norm, or use trainer.precision=32-true; recipe.on_nonfinite=skip leaves such "
            "steps out."
        )

    def _rates(self) -> dict[str, float]:
        return {group["name"]: group["lr"] for group in self.optimizers().param_groups}  # type: ignore[union-attr]

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Score the batch and return class maps (B, H, W) uint8 for the panels."""
        count, (height, width) = len(batch["id"]), batch["label"].shape[1:]
        logits = Logits(self.net, self.images(batch), self.recipe.loss_at)
        labels = pad_small(batch["label"], VOID)
        loss, classes = logits.loss_and_classes(labels, self.class_weights, self.recipe.loss_of_val(count))
        self.log("val/loss", loss, on_epoch=True, batch_size=count, sync_dist=True)
        predictions = classes[:, :height, :width]
        self.val_metrics.update(predictions, batch["label"])
        return predictions

    def on_validation_epoch_end(self) -> None:
        scores = self.val_metrics.compute()  # summed over all processes, so there is nothing left to synchronize
        self.val_metrics.reset()
        self.log_dict({f"val/{name}": scores[name].float() for name in SCORES})

    def test_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Score the batch through `inference`, keep the counts of every image, and return its class maps."""
        (height, width), images = batch["label"].shape[1:], self.images(batch)
        if self.calibration is None:
            predictions = self.inference.classes(images)[:, :height, :width]
        else:
            found = self.inference.classes_and_confidences(images)
            predictions, confidences = (each[:, :height, :width] for each in found)
            self.calibration.update(confidences, predictions, batch["label"])
        self.test_metrics.update(predictions, batch["label"], batch["index"])
        return predictions

    def on_test_epoch_end(self) -> None:
        self.test_scores = self.test_metrics.compute()
        self.test_metrics.reset()
        if self.calibration is not None:
            self.reliability = self.calibration.reliability()
            self.calibration.reset()

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip to `recipe.clip_norm`, since Lightning's way refuses fused optimizers (pytorch-lightning issue 21435).

        With `recipe.on_nonfinite=skip` it looks at the norm of every step, which all processes share.
        """
        clip_norm = self.recipe.clip_norm
        if clip_norm is None and not self._skips:
            return
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), float("inf") if clip_norm is None else clip_norm)
        if self._skips and not torch.isfinite(norm):
            self._skip(optimizer)

    def _skip(self, optimizer: Optimizer) -> None:
        """Leave everything as it was before the step: without gradients the optimizer does nothing."""
        scaled = self.trainer.precision == "16-mixed"
        # All processes skip a step, if one of them had the loss.
        if scaled and self.trainer.strategy.reduce_boolean_decision(bool(self._losses_finite)):
            return  # float16's scaler in search of its scale: it sees the gradients, and skips the step by itself
        self.skipped_steps += 1
        log.warning(self._describe(f"Skipped a step ({self.skipped_steps} so far): the gradient is not finite"))
        if not scaled:
            optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.net.buffers(), self._statistics, strict=True):
            buffer.copy_(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint.get("skipped_steps", 0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        batches = self.trainer.world_size * self.trainer.accumulate_grad_batches if recipe.scale_lr else 1
        groups = parameter_groups(self.net, recipe, recipe.lr * batches)
        # A fused optimizer takes float16's loss scale out of the gradients by itself, too late for them to be clipped.
        fused = recipe.clip_norm is None or self.trainer.precision != "16-mixed"
        optimizer = create_optimizer(groups, recipe, fused)
        if recipe.center_updates:
            center_updates(optimizer, filters(self.net, recipe.center_updates))
        steps, warmup = int(self.trainer.estimated_stepping_batches), recipe.schedule.warmup_steps
        if 20 <= steps < 2 * warmup:  # fewer steps are a trial
            log.warning(
                f"Warm-up takes {min(warmup, steps)} of the {steps} steps, so the network learns little. Train longer, "
                f"or set recipe.schedule.warmup_steps={steps // 10}."
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.schedule.factor(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def halve(batch: Batch) -> Batch:
    """Return the batch at half its height and width, rounded up: images averaged, labels by nearest neighbor."""
    size = [(side + 1) // 2 for side in batch["label"].shape[1:]]
    # uint8 is not resized by every backend, and float32 holds its values exactly.
    images = F.interpolate(batch["image"].float(), size, mode="bilinear", antialias=True)
    labels = F.interpolate(batch["label"][:, None].float(), size, mode="nearest-exact")[:, 0]
    return batch | {"image": images, "label": labels.to(batch["label"].dtype)}
