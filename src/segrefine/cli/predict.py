"""Run `segrefine predict`: segment images."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint
from segrefine.core.options import Auto, Count, CRFOptions, Size, Views

given = GivenCheckpoint()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/predict.yaml` besides its groups."""

    checkpoint: str | None
    input: str | None
    extra: str | None
    output: str | None
    tta: Views
    window: Size
    post: Literal["crf"] | None
    crf: CRFOptions
    submission: str | None
    device: Literal["auto", "cpu", "cuda"]
    devices: Count | Auto
    precision: str


def task(cfg: DictConfig, folder: Path) -> None:
    """Segment the images. Exit with status 1 if any of them failed."""
    from segrefine.engine.predict import predict

    if predict(cfg, given.checkpoint):
        sys.exit(1)


main = partial(run_command, "predict", task, Options, given.register)

if __name__ == "__main__":
    main()
