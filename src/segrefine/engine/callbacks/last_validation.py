"""A validation after the last step, where Lightning makes none."""

from lightning import Callback, LightningModule, Trainer


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
