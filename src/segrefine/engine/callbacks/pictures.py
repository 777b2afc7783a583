"""Write pictures of predictions: panels after a validation, predictions of a test."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from segrefine.core.channels import to_rgb
from segrefine.data.submission import write_submission
from segrefine.io.images import save_image
from segrefine.runs.folder import RunFolder, file_name, label_name
from segrefine.viz import colorize, legend, overlay, panel


class PanelWriter(Callback):
    """After a validation, `panels/step_N.png` of a few images: input, truth, prediction and error; also to W&B."""

    IMAGES = 6

    def __init__(self, folder: RunFolder, classes: list[str], palette: np.ndarray) -> None:
        self.folder, self.classes, self.palette = folder, classes, palette
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.chosen: set[int] = set()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        count = len(trainer.val_dataloaders.dataset)  # type: ignore[union-attr]
        world = trainer.world_size  # rank 0, which writes, sees every `world`-th image
        self.chosen = {index * count // self.IMAGES // world * world for index in range(self.IMAGES)}  # far apart

    @rank_zero_only
    def on_validation_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        columns = batch["index"].tolist(), batch["image"], batch["label"], outputs
        for index, image, label, prediction in zip(*columns, strict=True):
            if index in self.chosen:
                row = (to_rgb(image).permute(1, 2, 0), label, prediction.to(torch.uint8))
                self.rows.append(tuple(tensor.cpu().numpy() for tensor in row))  # type: ignore[arg-type]

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        rows, self.rows = self.rows, []
        if not rows:
            return
        images, truths, predictions = (list(column) for column in zip(*rows, strict=True))
        picture = panel(images, truths, predictions, self.palette, self.classes)
        save_image(picture, self.folder.panel(trainer.global_step))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/panel", [picture])


class LabelWriter(Callback):
    """Writes the predicted classes of every image of a test, which `segrefine compare` shows."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_test_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        for name, labels in zip(batch["id"], outputs, strict=True):
            save_image(Image.fromarray(labels.numpy(force=True)), self.folder.labels(name))


class PredictionWriter(Callback):
    """Writes pictures of the prediction for every image of a test."""

    def __init__(self, folder: RunFolder, classes: list[str], palette: np.ndarray, submission: str | None) -> None:
        self.folder, self.classes, self.palette, self.submission = folder.predictions, classes, palette, submission

    def on_test_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        for name, image, labels in zip(batch["id"], batch["image"], outputs, strict=True):
            write_pictures(self.folder, name, image.cpu(), labels.cpu(), self.palette, self.submission)

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.submission is None:
            write_legend(self.folder, self.classes, self.palette)


LEGEND = "legend.png"
"""The file with the colors and names of the classes, beside the pictures."""


def write_legend(folder: Path, classes: list[str], palette: np.ndarray) -> None:
    """Write `LEGEND` into the folder. Classes without a name are numbered."""
    save_image(legend(classes or [f"class {index}" for index in range(len(palette))], palette), folder / LEGEND)


def picture_paths(folder: Path, name: str, submission: str | None = None) -> list[Path]:
    """Return the files of one image: label, color and overlay, or only the NAME.png that a benchmark expects."""
    stem = file_name(name)
    names = [label_name(name), f"{stem}_colour.png", f"{stem}_overlay.png"] if submission is None else [f"{stem}.png"]
    return [folder / name for name in names]


def write_pictures(
    folder: Path, name: str, image: Tensor, labels: Tensor, palette: np.ndarray, submission: str | None = None
) -> None:
    """Write class indices, their colors, and the colors over the image, or only what a benchmark expects.

    The image is (C, H, W) and the labels are (H, W) uint8.
    """
    paths, indices = picture_paths(folder, name, submission), labels.numpy().astype(np.uint8)
    if submission is not None:
        write_submission(paths[0], indices, submission)
        return
    colors, below = colorize(indices, palette), to_rgb(image).permute(1, 2, 0).numpy()
    for path, picture in zip(paths, (indices, colors, overlay(below, colors)), strict=True):
        save_image(Image.fromarray(picture), path)
