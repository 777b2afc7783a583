"""Score a checkpoint on a split: `python evaluate.py checkpoint=PATH`. `--help` names the options."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main, register_checkpoint


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.evaluation import evaluate

    evaluate(cfg, folder)


if __name__ == "__main__":
    main("evaluate", task, register_checkpoint)
