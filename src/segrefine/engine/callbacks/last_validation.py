"""A validation after the last step of every training."""

from typing import Any

from lightning import Callback, Trainer


class LastValidation(Callback):
    """Validate after the last step, also where no validation is due, so that every step has a score and a checkpoint.

    Lightning validates when training is asked to stop. At the last step, asking changes nothing else.
    """

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or (trainer.is_last_batch and last_epoch):
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True
