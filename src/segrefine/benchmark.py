"""`python -m segrefine.benchmark model=NAME backbone=NAME`: speed and memory of a network, alone or beside another's.
`--help` names the options.
"""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.benchmarking import benchmark

    benchmark(cfg)


if __name__ == "__main__":
    main("benchmark", task)
