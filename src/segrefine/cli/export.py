"""Run `segrefine export`: write a trained network in the format of other code."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli.command import run_command
from segrefine.cli.options import GivenCheckpoint

given = GivenCheckpoint()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `conf/export.yaml` besides its groups."""

    checkpoint: str | None
    format: str | None
    output: str | None


def task(cfg: DictConfig, folder: Path) -> None:
    """Write the network to a file."""
    from segrefine.weights.export import export

    export(cfg, given.checkpoint)


main = partial(run_command, "export", task, Options, given.register)

if __name__ == "__main__":
    main()
