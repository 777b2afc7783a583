"""Define summary.json, the results of a run, for the code that writes it and the code that reads it."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from segrefine.core.errors import UserError
from segrefine.core.options import defaults
from segrefine.io.atomic import write_text

SCHEMA_VERSION = 1
"""Version of summary.json. Older files without a version are read as well."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The content of summary.json. Scores are fractions in [0, 1], None if there was nothing to score.

    Attributes:
        seed: of the run; None for published weights.
        params: parameters of the network.
        flops: multiply-adds for an image of `flops_size`, (H, W) in pixels.
        num_images: images of the `split` that were scored.
        ece: expected calibration error of an evaluation.
        per_class: IoU by class name, None for a class that never occurs.
        weights: 16 hexadecimal digits that distinguish the network's weights from others.
        val_mIoU: of the best checkpoint, when it was chosen.
        images_per_second: in training or, for an evaluation, in the evaluation.
        dead_units: fraction of dead channels by ReLU, at the end of training with log_dead_units=true.
        skipped_steps: steps without an update, because the gradient was not finite.
        checkpoint: what an evaluation scored; None after training.
        tta: the views of an evaluation; None after training.
        window: the window of an evaluation; None after training.
        post: what an evaluation refined its scores with; None after training.
    """

    model: str
    backbone: str
    datamodule: str
    split: str
    seed: int | None
    params: int
    flops: int
    flops_size: list[int] = field(default_factory=list)
    num_images: int | None = None
    mIoU: float | None
    pixel_acc: float | None = None
    mean_acc: float | None = None
    fwIoU: float | None = None
    boundary_IoU: float | None = None
    ece: float | None = None
    per_class: dict[str, float | None] = field(default_factory=dict)
    weights: str | None = None
    val_mIoU: float | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    skipped_steps: int = 0
    dead_units: dict[str, float] | None = None
    checkpoint: str | None = None
    tta: dict[str, Any] | None = None
    window: int | list[int] | None = None
    post: str | None = None
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the file completely or not at all."""
        write_text(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read the file.

        Raises:
            UserError: the file is missing, broken or of a newer version. The message names it.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"{path} is broken: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} is broken: it holds no named values.")
        version = content.get("schema_version", 0)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise UserError(f"{path} has schema_version {version}; this segrefine reads up to {SCHEMA_VERSION}.")
        known = {each.name for each in fields(cls)}
        if missing := known - defaults(cls).keys() - content.keys():
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}: is it of another version?")
        return cls(**{name: value for name, value in content.items() if name in known})
