"""The run's loggers: metrics.csv, Weights & Biases, TensorBoard."""

import logging
import netrc
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from segrefine.csv_logger import MetricsCSV
from segrefine.errors import UserError

log = logging.getLogger(__name__)


def create_loggers(options: dict[str, Any], folder: Path, config: dict[str, Any]) -> list[Logger]:
    """The loggers that the `logger` config group asks for; all write under `folder`, the run's."""
    loggers: list[Logger] = [MetricsCSV(folder)] if options["csv"] else []
    if options["tensorboard"]:
        loggers.append(_tensorboard(folder))
    if options["wandb"] and is_rank_zero():
        run = _start_wandb(options["wandb"], folder, config)
        if run is not None:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(experiment=run))
    return loggers


def is_rank_zero() -> bool:
    """Whether this process is the first of a run, the one that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _tensorboard(folder: Path) -> Logger:
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            'logger=tensorboard needs a package that is not here: pip install -e ".[tensorboard]".'
        ) from error
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _start_wandb(options: dict[str, Any], folder: Path, config: dict[str, Any]) -> Any:
    """A W&B run: online with a key, else offline; offline too if the service does not answer; None if even that fails.

    Never asks, never ends the training. WANDB_MODE is respected.
    """
    try:
        import wandb
    except ImportError:
        log.warning("W&B is not installed, so the run is logged without it (pip install wandb, or logger=csv).")
        return None
    # The id is kept in the run's folder, so that a resumed run goes on in the same W&B run.
    id_file = folder / "wandb_run_id.txt"
    identity = id_file.read_text().strip() if id_file.is_file() else secrets.token_hex(4)
    settings = wandb.Settings(init_timeout=30, console="off", silent=True)
    wanted: Any = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
    for mode in dict.fromkeys((wanted, "offline")):
        try:
            run = wandb.init(
                dir=folder, config=config, mode=mode, id=identity, resume="allow", settings=settings, **options
            )
        except Exception as error:  # whatever the service or its client does, training goes on
            log.warning(f"W&B could not start ({mode}): {error}")
            continue
        run.define_metric("trainer/global_step")  # as Lightning does for runs that it starts itself
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        id_file.write_text(identity + "\n")
        if mode == "offline":
            log.info(f"W&B is offline: wandb sync {Path(run.dir).parent} uploads this run.")
        return run
    return None


def finish_wandb(succeeded: bool) -> None:
    """End the live W&B run, if any; else the next run of the process would log into it."""
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        try:
            wandb.finish(exit_code=0 if succeeded else 1)
        except Exception as error:
            log.warning(f"W&B could not finish: {error}")


def has_wandb_key() -> bool:
    """Whether `wandb login` was done or WANDB_API_KEY is set; asked of the environment and netrc alone."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    for name in (".netrc", "_netrc"):
        path = Path(os.environ.get("NETRC") or Path.home() / name)
        try:
            if path.is_file() and host in netrc.netrc(path).hosts:
                return True
        except (netrc.NetrcParseError, OSError):
            log.warning(f"{path} cannot be read, so W&B stays offline.")
    return False
