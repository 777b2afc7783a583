"""Run `segrefine compare`: make tables, statistics, plots and a page of finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.core.options import Auto, Count, NonNegative


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/compare.yaml`."""

    runs: str | Sequence[str] | None
    wandb: str | None
    output: str | None
    baseline: str | None
    metric: str
    resamples: Annotated[int, Ge(100)]
    block_length: Count | Auto
    equivalence: NonNegative
    labels: Mapping[str, str] | None
    plan: bool
    wandb_report: bool
    claims: str | None


def task(cfg: DictConfig, folder: Path) -> None:
    """Compare the runs, or test the claims, that the config names."""
    from segrefine.compare.report import compare

    compare(cfg)


main = partial(run_command, "compare", task, Options)

if __name__ == "__main__":
    main()
