"""`segrefine predict`: segment images."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint

given = GivenCheckpoint()


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.engine.predict import predict

    if predict(cfg, given.checkpoint):
        sys.exit(1)


def main() -> None:
    run_command("predict", task, given.register)


if __name__ == "__main__":
    main()
