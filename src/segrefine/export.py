"""`python -m segrefine.export checkpoint=PATH format=NAME output=PATH`: a trained network in the form of other code.
`--help` names the formats.
"""

from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main, register_checkpoint


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.exporting import export

    export(cfg)


if __name__ == "__main__":
    main("export", task, register_checkpoint)
