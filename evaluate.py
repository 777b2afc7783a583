"""Score a checkpoint on a split: `python evaluate.py checkpoint=PATH`. `python evaluate.py --help` names the options."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.evaluation import evaluate

    evaluate(cfg, folder)


def prepare(arguments: list[str]) -> None:
    from segrefine.evaluation import register_checkpoint

    register_checkpoint(arguments)


if __name__ == "__main__":
    main("evaluate", task, prepare)
