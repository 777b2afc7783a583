"""Define the folder of a run. This module alone knows the names of its files."""

import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from segrefine.core.errors import UserError
from segrefine.io.lock import locked

NAME_BYTES = 200
"""The most bytes of a part of a result's path that is named after the image. File systems allow 255 with extensions."""


class File:
    """An attribute of a run's folder: the path of a file in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunFolder", kind: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """A run's files. The constants are names relative to the folder, and the attributes are paths."""

    path: Path

    CONFIG: ClassVar[str] = "config.yaml"
    SUMMARY: ClassVar[str] = "summary.json"
    PER_IMAGE: ClassVar[str] = "per_image.csv"
    RELIABILITY_TABLE: ClassVar[str] = "reliability.csv"
    RELIABILITY_PLOT: ClassVar[str] = "reliability.png"
    METRICS: ClassVar[str] = "metrics.csv"
    ENVIRONMENT: ClassVar[str] = "environment.txt"
    LOG: ClassVar[str] = "train.log"
    CHECKPOINTS: ClassVar[str] = "checkpoints"
    BEST: ClassVar[str] = f"{CHECKPOINTS}/best.ckpt"
    LAST: ClassVar[str] = f"{CHECKPOINTS}/last.ckpt"
    PREDICTIONS: ClassVar[str] = "predictions"
    PANELS: ClassVar[str] = "panels"
    TENSORBOARD: ClassVar[str] = "tensorboard"
    HYDRA: ClassVar[str] = ".hydra"
    LOCK: ClassVar[str] = ".lock"
    WANDB_ID: ClassVar[str] = "wandb_run_id.txt"
    OFFLINE_RUNS: ClassVar[str] = "wandb/offline-run-*"

    summary = File(SUMMARY)
    per_image = File(PER_IMAGE)
    metrics = File(METRICS)
    environment = File(ENVIRONMENT)
    best = File(BEST)  # the checkpoint with the best mIoU on val
    last = File(LAST)  # the checkpoint that the run resumes from
    before_nonfinite = File(f"{CHECKPOINTS}/before_nonfinite.ckpt")  # before a step whose loss was not finite
    predictions = File(PREDICTIONS)
    wandb_id = File(WANDB_ID)  # with the id of the W&B run, so that a resumed run continues it

    @property
    def config(self) -> Path:
        """The resolved config. Results kept in a repository call it config.yml."""
        kept = self.path / "config.yml"
        return kept if kept.is_file() else self.path / self.CONFIG

    @property
    def finished(self) -> bool:
        """Whether the run completed: the summary is the last file to be written."""
        return self.summary.is_file()

    @property
    def abandoned(self) -> bool:
        """Whether the folder holds nothing but Hydra's record, a log and a lock: the run produced nothing."""
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        return self.HYDRA in names and names <= {self.HYDRA, self.LOG, self.LOCK}

    def check_free(self, resumed: Path | None = None) -> None:
        """Raise UserError if the folder holds a training run, whose files others would replace.

        Not if it is the one that the checkpoint `resumed` continues.
        """
        if self.last.is_file() and (resumed is None or resumed.resolve().parent.parent != self.path.resolve()):
            raise UserError(
                f"{self.path} holds a training run. Give another hydra.run.dir=FOLDER, or resume that run "
                "(train: ckpt_path=last)."
            )

    def panel(self, step: int) -> Path:
        """Return the path of the panel of a few validation images after `step` steps."""
        return self.path / self.PANELS / f"step_{step:07d}.png"

    @property
    def panels(self) -> list[Path]:
        """The existing panels, the latest last."""
        return sorted((self.path / self.PANELS).glob("step_*.png"))

    def labels(self, image: str) -> Path:
        """Return the path of the classes (H, W) uint8 that the network predicts for the image with this id."""
        return self.predictions / label_name(image)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other processes from working on this run; UserError if one is."""
        busy = f"Another process is working on the run in {self.path}. Wait until it ends, or stop it."
        return locked(self.path / self.LOCK, busy)


def previous(checkpoint: Path) -> Path:
    """Return the name under which the checkpoint before this one is kept."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def owner(checkpoint: Path) -> RunFolder | None:
    """Return the run that a checkpoint belongs to, or None for a file elsewhere."""
    folder = RunFolder(checkpoint.absolute().parent.parent)
    return folder if folder.config.is_file() else None


def label_name(image: str) -> str:
    """Return the file, below a folder of predictions, with the classes of the image with this id."""
    return f"{file_name(image)}_label.png"


def file_name(image: str) -> str:
    """Return a path, below a folder, that is named after an image's id.

    An id can be the image's own path, which may lead out of the folder, or be too long once an extension is added.
    """
    parts = [
        {"/": "_root", "//": "_root", "..": "_up"}.get(part, part)
        for part in PurePosixPath(image.replace("\0", "_")).parts
    ]
    digest = hashlib.sha1(os.fsencode(image)).hexdigest()[:8]
    return "/".join(part if len(os.fsencode(part)) <= NAME_BYTES else f"{part[:40]}-{digest}" for part in parts) or "_"
