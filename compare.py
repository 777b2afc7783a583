"""Compare finished runs: `python compare.py runs=GLOB output=DIR`. `--help` names the options."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.comparison.report import compare

    compare(cfg)


if __name__ == "__main__":
    main("compare", task)
