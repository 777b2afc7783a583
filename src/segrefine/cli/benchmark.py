"""`segrefine benchmark`: speed and memory of a network, alone or beside another."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.bench.benchmark import benchmark

    benchmark(cfg)


def main() -> None:
    run_command("benchmark", task)


if __name__ == "__main__":
    main()
