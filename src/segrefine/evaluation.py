"""Scoring a network on a split, at the end of a training run and from `evaluate.py`."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from segrefine.atomic import write_text
from segrefine.callbacks import Timer
from segrefine.checkpoints import read_checkpoint, restore
from segrefine.configs import read_group
from segrefine.cost import measure_cost
from segrefine.data import create_datamodule
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.errors import UserError, did_you_mean
from segrefine.inference import Inference
from segrefine.left_out import LeftOutList
from segrefine.lit_module import SCORES, SegmentationModule
from segrefine.panels import save_atomically
from segrefine.picture_names import label_name
from segrefine.prediction import write_pictures
from segrefine.submission import check_benchmark
from segrefine.summary import fingerprint, write_per_image, write_summary
from segrefine.trainer import create_trainer, peak_memory, reset_peak_memory

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Score the checkpoint as `conf/evaluate.yaml` says; returns the content of summary.json."""
    if cfg.checkpoint is None:
        raise UserError("Give checkpoint=PATH, such as checkpoints/best.ckpt of a run.")
    if cfg.split not in SPLITS:
        raise UserError(f"There is no split {cfg.split!r}.{did_you_mean(cfg.split, SPLITS)}")
    reset_peak_memory()
    checkpoint = read_checkpoint(Path(cfg.checkpoint))
    if cfg.datamodule.get("name") is None:
        raise UserError(f"{cfg.checkpoint} does not say of which data it is: give datamodule=NAME.")
    datamodule = create_datamodule(cfg.datamodule)
    if cfg.split == "test" and not datamodule.has_test:
        raise UserError(f"datamodule={cfg.datamodule.name} has no labels for split=test here. Use split=val.")
    if checkpoint.classes and datamodule.classes != checkpoint.classes:
        raise UserError(
            f"{cfg.checkpoint} knows {len(checkpoint.classes)} classes ({', '.join(checkpoint.classes)}), but "
            f"datamodule={cfg.datamodule.name} has {datamodule.num_classes} ({', '.join(datamodule.classes)})."
        )
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    net = restore(checkpoint, config["model"], config["backbone"], datamodule.num_classes)
    inference = Inference(net, **config["tta"], window=config["window"])
    recipe = checkpoint.config.get("recipe", read_group("recipe", "default")) | {"class_weights": None}
    module = SegmentationModule(net, datamodule.num_classes, recipe, inference)
    timer, left_out = Timer(), LeftOutList()
    callbacks: list[Callback] = [timer, left_out]
    check_benchmark(cfg.submission, datamodule.num_classes)
    if cfg.save_predictions or cfg.submission:
        callbacks.append(PredictionWriter(folder, datamodule.palette, cfg.submission))
    trainer = create_trainer(config["trainer"], folder, callbacks)
    if trainer.is_global_zero:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    cost = measure_cost(net, datamodule.image_size(cfg.split))
    scores = score(trainer, module, datamodule, cfg.split, folder)
    summary = {
        "model": cfg.model.name,
        "backbone": cfg.backbone.name,
        "datamodule": cfg.datamodule.name,
        "split": cfg.split,
        "seed": checkpoint.config.get("seed"),
        "checkpoint": str(cfg.checkpoint),
        "tta": config["tta"],
        "window": config["window"],
        **cost,
        **scores,
        "train_seconds": None,
        "images_per_second": timer.images_per_second,
        "peak_memory_bytes": peak_memory(module.device),
        "left_out": left_out.entries,
    }
    if trainer.is_global_zero:
        write_summary(folder, summary)
        left_out.warn()
        log.info(f"{render(summary)}\neverything is in {folder}")
    return summary


def score(
    trainer: Trainer, module: SegmentationModule, datamodule: SegmentationDataModule, split: str, folder: Path
) -> dict[str, Any]:
    """Score the module's network on a split; writes per_image.csv and returns the split's part of summary.json."""
    datamodule.test_split = split
    trainer.test(module, datamodule=datamodule, verbose=False)
    scores = module.test_scores
    if trainer.is_global_zero:
        ids = datamodule.dataset(split).ids
        named = [ids[index] for index in scores["indices"]]
        write_per_image(folder, named, scores["image_counts"], datamodule.classes)
    values = {name: finite(float(scores[name])) for name in SCORES}
    if split == "test":
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"test/{name}": value for name, value in values.items() if value is not None}, trainer.global_step
            )
            logger.save()
    per_class = {name: finite(iou) for name, iou in zip(datamodule.classes, scores["per_class"].tolist(), strict=True)}
    return {"num_images": len(scores["indices"]), **values, "per_class": per_class, "weights": fingerprint(module.net)}


def render(summary: dict[str, Any]) -> str:
    """The scores as a small table in words."""
    rows = [(name, summary[name]) for name in SCORES] + [
        (f"IoU {name}", iou) for name, iou in summary["per_class"].items()
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{summary['model']} over {summary['backbone']}, {summary['num_images']} images of {summary['split']}:"]
    return "\n".join(
        [*lines, *(f"  {name:<{width}}  {'absent' if value is None else f'{value:.4f}'}" for name, value in rows)]
    )


class LabelWriter(Callback):
    """Writes the classes that the network sees in every image it is tested on, which `compare.py` shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        for name, labels in zip(batch["id"], outputs, strict=False):  # as in PanelWriter
            save_atomically(Image.fromarray(labels.numpy(force=True)), self.folder / "predictions" / label_name(name))


class PredictionWriter(Callback):
    """Writes pictures of what the network says of every image it is tested on."""

    def __init__(self, folder: Path, palette: np.ndarray, submission: str | None) -> None:
        self.folder, self.palette, self.submission = folder / "predictions", palette, submission

    def on_test_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        for name, image, labels in zip(batch["id"], batch["image"], outputs, strict=False):  # as in PanelWriter
            write_pictures(self.folder, name, image.cpu(), labels.cpu(), self.palette, self.submission)


def finite(value: float) -> float | None:
    """JSON has no NaN: a score of nothing is null."""
    return value if math.isfinite(value) else None
