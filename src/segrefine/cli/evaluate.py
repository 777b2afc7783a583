"""`segrefine evaluate`: score a checkpoint on a split."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint

given = GivenCheckpoint()


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.engine.evaluate import evaluate

    evaluate(cfg, folder, given.checkpoint)


def main() -> None:
    run_command("evaluate", task, given.register)


if __name__ == "__main__":
    main()
