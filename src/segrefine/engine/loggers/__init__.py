"""The run's loggers: a table of metrics, Weights & Biases, TensorBoard."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger

from segrefine.core.extras import require
from segrefine.engine.loggers.csv import MetricsCSV
from segrefine.engine.loggers.wandb import LenientWandbLogger, start_wandb
from segrefine.engine.trainer import is_rank_zero
from segrefine.runs.folder import RunFolder


def create_loggers(options: dict[str, Any], folder: RunFolder, config: dict[str, Any]) -> list[Logger]:
    """Create the loggers that the `logger` config group asks for. All write under `folder`, that of the run."""
    loggers: list[Logger] = [MetricsCSV(folder.metrics)] if options.get("csv") else []
    if options.get("tensorboard"):
        loggers.append(_tensorboard(folder))
    if options.get("wandb") and is_rank_zero():
        run = start_wandb(options["wandb"], folder, config | {"overrides": given_options()})
        if run is not None:
            loggers.append(LenientWandbLogger(run))
    return loggers


def given_options() -> list[str]:
    """Return the overrides from the command line or sweeper, without those that cannot affect the result."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [str(option) for option in given if not str(option).startswith(("ckpt_path=", "logger=", "logger."))]


def _tensorboard(folder: RunFolder) -> Logger:
    require("tensorboard", "tensorboard", "logger=tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder.path, name=folder.TENSORBOARD, version="")
