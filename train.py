"""Train a network: `python train.py model=refinenet backbone=resnet101`. `python train.py --help` names the options."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.run import run

    run(cfg, folder)


if __name__ == "__main__":
    main("train", task)
