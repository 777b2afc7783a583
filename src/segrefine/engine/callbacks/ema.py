"""An average of the weights over the steps of a training."""

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightEMA(WeightAveraging):
    """Keep an exponential moving average of weights and batch norm's statistics (Polyak and Juditsky, 1992).

    Validations score the average, and checkpoints hold it as the network's weights. The weights that are trained lie
    beside it in `last.ckpt`, from which a run resumes.

    The average begins young, so that it forgets the start: after n steps its decay is at most (1 + n) / (10 + n), as in
    TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the average where the network will be, which Lightning moves there later."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            device: Any = trainer.strategy.root_device
            self._average_model.to(device)
            self._average_model.module.net.lay_out(device)  # type: ignore[operator, union-attr]

    def _average(self, averages: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        """Update all averages of one dtype. Lightning's count of steps is a number; PyTorch's would be on the GPU."""
        steps = self._latest_update_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(averages, current, count)
