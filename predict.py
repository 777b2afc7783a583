"""Segment images: `python predict.py checkpoint=PATH input=FILE_OR_DIR output=DIR`. `python predict.py --help` says
more.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segrefine.cli import main, register_checkpoint


def task(cfg: DictConfig, folder: Path) -> None:
    from segrefine.prediction import predict

    if predict(cfg):
        sys.exit(1)


if __name__ == "__main__":
    main("predict", task, register_checkpoint)
