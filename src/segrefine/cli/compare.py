"""`segrefine compare`: tables, statistics, plots and a page of finished runs."""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.compare.report import compare

    compare(cfg)


def main() -> None:
    run_command("compare", task)


if __name__ == "__main__":
    main()
