"""`segrefine export`: write a trained network in the form of other code."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint

given = GivenCheckpoint()


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.weights.export import export

    export(cfg, given.checkpoint)


def main() -> None:
    run_command("export", task, given.register)


if __name__ == "__main__":
    main()
