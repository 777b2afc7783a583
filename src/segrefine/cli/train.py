"""Run `segrefine train`: train a network and score the best checkpoint."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.core.errors import UserError
from segrefine.core.options import Positive
from segrefine.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/train.yaml` besides its groups."""

    seed: Annotated[int, Interval(ge=0, lt=2**32)]
    ckpt_path: str | None
    init_from: str | None
    strict: bool
    checkpoint_every_minutes: Positive | None
    deterministic: bool
    compile: bool
    log_gradients: bool
    log_dead_units: bool


def task(cfg: DictConfig, folder: Path) -> None:
    """Train the network in `folder`.

    Raises:
        UserError: ckpt_path=last finds no checkpoint of an earlier run.
    """
    named = any(option.startswith("hydra.run.dir=") for option in HydraConfig.get().overrides.hydra)
    if cfg.ckpt_path == "last" and not named and not RunFolder(folder).last.is_file():
        raise UserError(
            "ckpt_path=last: no earlier run of this model and backbone left a checkpoint under outputs/. Leave "
            "ckpt_path out to start a new run, or name the run with hydra.run.dir=FOLDER or ckpt_path=PATH."
        )
    from segrefine.engine.train import train

    train(cfg, folder)


main = partial(run_command, "train", task, Options)

if __name__ == "__main__":
    main()
