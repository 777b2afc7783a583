"""The end of a training that gets no better."""

import logging
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from segrefine.engine.callbacks.checkpoint import MONITOR
from segrefine.engine.module import SegmentationModule

log = logging.getLogger(__name__)


class Patience(EarlyStopping):
    """Stop after `validations` in a row without a better val mIoU than before.

    Checks right after a validation, so that the checkpoint saved there knows the count. Lightning's default checks at
    the end of the epoch, after it. Validations do not count while the training sees images of half the size, since
    scores stay low then.
    """

    def __init__(self, validations: int) -> None:
        super().__init__(MONITOR, mode="max", patience=validations, check_finite=False, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count, but not the patience: the one given now holds."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegmentationModule)
        if not module.halves:
            super().on_validation_end(trainer, module)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """End a run at once that had stopped before it was resumed."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.wait_count >= self.patience and trainer.is_global_zero:
            log.info(
                f"Stopped by trainer.early_stopping={self.patience} after {trainer.global_step} steps: {MONITOR} was "
                f"at most {float(self.best_score):.4f}, as before."
            )
