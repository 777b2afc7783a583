"""What the framework costs: a step of a Lightning training against a bare PyTorch loop over the same.

    python benchmarks/overhead.py [model=fcn8s backbone=resnet18 ...]      options of train.py

The same network, recipe and batches of generated scenes, in blocks of steps that take turns, each block in its own
copy; the median step of all blocks counts. Validation and checkpoints are outside both.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, seed_everything
from omegaconf import OmegaConf

from segrefine.core.config import CONFIG_FOLDER
from segrefine.data.build import build_datamodule
from segrefine.engine.callbacks.progress import Throughput
from segrefine.engine.loggers.csv import MetricsCSV
from segrefine.engine.module import SegmentationModule
from segrefine.engine.optim import create_optimizer, parameter_groups
from segrefine.engine.precision import autocast_dtype, choose_device
from segrefine.engine.recipe import Recipe
from segrefine.engine.trainer import create_trainer
from segrefine.models.build import build_model
from segrefine.models.logits import Logits
from segrefine.models.network import SegmentationModel

BLOCKS, STEPS, WARM_UP = 5, 24, 4


class Clock(Callback):
    """Seconds between the ends of steps."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, [time.perf_counter()]

    def on_train_batch_end(self, *args: Any) -> None:
        self.end()

    def end(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)][WARM_UP:]


def main(overrides: list[str]) -> None:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        fixed = [f"datamodule.train_size={STEPS * 8}", "trainer.max_epochs=1", "trainer.devices=1"]
        cfg = compose("train", overrides=[*fixed, *overrides])
    config: Any = OmegaConf.to_container(cfg)
    datamodule = build_datamodule(config["datamodule"])
    datamodule.setup()
    device = choose_device("auto")

    recipe = Recipe.from_config(config["recipe"]).resolve(False, datamodule)

    def network() -> SegmentationModel:
        seed_everything(0, verbose=False)
        net = build_model(config["model"], config["backbone"], datamodule.num_classes)
        net.lay_out(device)
        return net

    def lightning(folder: str) -> list[float]:
        net, clock = network(), Clock(device)
        callbacks = [Throughput(), clock]
        trainer = create_trainer(config["trainer"], Path(folder), callbacks)
        trainer.loggers = [MetricsCSV(Path(folder) / "metrics.csv")]
        trainer.fit(SegmentationModule(net, recipe), datamodule.train_dataloader())
        return clock.seconds

    def bare(folder: str) -> list[float]:
        net = network()
        net.to(device).train()
        optimizer = create_optimizer(parameter_groups(net, recipe, recipe.lr), recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.schedule.factor(STEPS))
        precision = autocast_dtype(config["trainer"]["precision"], device)
        clock = Clock(device)
        for batch in datamodule.train_dataloader():
            images = batch["image"].to(device).to(memory_format=net.layout)
            labels = batch["label"].to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, precision, enabled=precision is not None):
                loss = Logits(net, net.from_pixels(images)).loss(labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm or float("inf"))
            optimizer.step()
            schedule.step()
            clock.end()
        return clock.seconds

    seconds: dict[str, list[float]] = {"lightning": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        for block in range(BLOCKS):
            for kind, work in (("lightning", lightning), ("bare", bare))[:: 1 if block % 2 else -1]:
                seconds[kind] += work(folder)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    for kind, median in medians.items():
        low, _, high = statistics.quantiles(seconds[kind], n=4)
        print(f"{kind}: {1e3 * median:.1f} ms a step (quartiles {1e3 * low:.1f} to {1e3 * high:.1f})")
    print(f"lightning / bare: {medians['lightning'] / medians['bare']:.3f}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    main(sys.argv[1:])
