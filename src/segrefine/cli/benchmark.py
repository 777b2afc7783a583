"""Run `segrefine benchmark`: measure the speed and memory of a network, alone or beside another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.core.options import Auto, Count, Whole


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/benchmark.yaml` besides its groups."""

    num_classes: Count
    size: Sequence[Count]
    batch_size: Count
    steps: str | Sequence[str]
    precision: str
    channels_last: Auto | bool
    compile: bool
    device: str
    rounds: Count
    profile: Whole
    peer: str | None
    peer_precision: str
    peer_channels_last: bool
    output: str | None


def task(cfg: DictConfig, folder: Path) -> None:
    """Time the networks that the config describes."""
    from segrefine.bench.benchmark import benchmark

    benchmark(cfg)


main = partial(run_command, "benchmark", task, Options)

if __name__ == "__main__":
    main()
