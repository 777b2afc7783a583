"""What is logged around training."""

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segrefine.engine.callbacks.gradients import GradientNorms
from segrefine.engine.callbacks.progress import StepLog
from segrefine.engine.loggers.csv import MetricsCSV


class Factor(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x


class Encoder(nn.Module):
    """2 * 3 * x in its first stage, times 5 in its second, which has a layer that takes no part as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [[Factor(2.0), Factor(3.0)], [Factor(5.0), nn.Linear(1, 1)]]
        self.layers = nn.ModuleList(layer for stage in self.stages for layer in stage)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[1](self.layers[0](x)))


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential()
        self.net.encoder, self.net.decoder = Encoder(), Factor(7.0)
        self.step_values: dict[str, torch.Tensor] = {}

    def training_step(self, batch: Tensor) -> Tensor:
        return self.net(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_the_norm_of_the_gradient_of_every_part_is_logged_as_it_was_before_clipping(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    options = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_steps=2, log_every_n_steps=1, logger=logger, gradient_clip_val=0.1, **options,
        callbacks=[GradientNorms(), StepLog()], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader([torch.tensor(0.5), torch.tensor(-1.0)], batch_size=None))  # type: ignore[arg-type]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The derivative by one factor is the product of the others: 2 * 3 * 5 * 7 = 210.
    for row, x in zip(rows, (0.5, -1.0), strict=True):
        assert float(row["gradient/encoder_stage1"]) == pytest.approx(abs(x) * math.hypot(210 / 2, 210 / 3))
        assert float(row["gradient/encoder_stage2"]) == pytest.approx(abs(x) * 210 / 5)
        assert float(row["gradient/decoder"]) == pytest.approx(abs(x) * 210 / 7)
    assert sorted(name for name in rows[0] if name.startswith("gradient/")) == [
        *("gradient/decoder", "gradient/encoder_stage1", "gradient/encoder_stage2"),
    ]
