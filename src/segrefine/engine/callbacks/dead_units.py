"""Measure how much of a network has died: channels that a ReLU sets to zero everywhere."""

import logging
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from segrefine.models.network import SegmentationModel

log = logging.getLogger(__name__)

TOO_MANY = 0.2
"""Share of dead channels above which the end of a run warns."""


class DeadUnits(Callback):
    """Log `dead/NAME`: the share of channels of a ReLU that are zero on the first batch of a validation.

    Looks at the ReLUs that nothing bypasses, which `Encoder.relus` and `Decoder.relus` name. A channel that is negative
    everywhere there gets no gradient, so it can stay dead for the rest of the training. A channel that is zero on one
    batch may live on other images: the larger the batch, the truer the share.

    Attributes:
        shares: of the latest validation, in [0, 1], by name.
    """

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"shares": self.shares}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.shares = state_dict["shares"]

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int, *_: Any
    ) -> None:
        if batch_index > 0:
            return
        # Hooks are not seen by a network that was compiled before they were set.
        with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.forward_context():
            alive = find_alive(module.net, module.images(batch))
        # Alive in any process is alive.
        counts = {name: trainer.strategy.reduce(each.float(), reduce_op="max") for name, each in alive.items()}
        self.shares = {name: 1 - float(count.mean()) for name, count in counts.items()}

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.log_dict({f"dead/{name}": torch.tensor(share) for name, share in self.shares.items()})

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        kept = find_frozen(module.net)  # as they came, so no training killed them
        dead = {name: share for name, share in self.shares.items() if share > TOO_MANY and name not in kept}
        if dead and trainer.is_global_zero:
            listed = ", ".join(f"{name} {share:.0%}" for name, share in dead.items())
            log.warning(
                f"Dead channels, zero on a whole batch of validation: {listed}. The network did not learn with all of "
                "itself; docs/training.md says what helps."
            )


def find_frozen(net: SegmentationModel) -> set[str]:
    """Return the names of the ReLUs that lie in stages of the encoder whose weights are frozen."""
    stages = [nn.ModuleList(stage) for stage in net.encoder.stages]
    frozen = [stage for stage in stages if not any(parameter.requires_grad for parameter in stage.parameters())]
    inside = {module for stage in frozen for module in stage.modules()}
    return {name for name, relu in net.relus().items() if relu in inside}


def find_alive(net: SegmentationModel, images: Tensor) -> dict[str, Tensor]:
    """Return which channels (C,) of each of the network's ReLUs are positive anywhere in the images (B, C, H, W)."""
    alive: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        alive[name] = (output > 0).any(dim=3).any(dim=2).any(dim=0)

    with torch.no_grad(), ExitStack() as hooks:
        for name, relu in net.relus().items():
            hooks.enter_context(relu.register_forward_hook(partial(look, name)))
        net(images, upsampled=False)
    return alive
