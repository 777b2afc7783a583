"""Run `segrefine evaluate`: score a checkpoint on a split."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint
from segrefine.core.options import CRFOptions, Size, Views

given = GivenCheckpoint()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/evaluate.yaml` besides its groups."""

    checkpoint: str | None
    split: Literal["train", "val", "test"]
    tta: Views
    window: Size
    post: Literal["crf"] | None
    crf: CRFOptions
    save_predictions: bool
    submission: str | None


def task(cfg: DictConfig, folder: Path) -> None:
    """Score the checkpoint and write the results to `folder`."""
    from segrefine.engine.evaluate import evaluate

    evaluate(cfg, folder, given.checkpoint)


main = partial(run_command, "evaluate", task, Options, given.register)

if __name__ == "__main__":
    main()
