"""Score a network on a split: at the end of training, and for `evaluate`."""

import logging
import math
from typing import Any

from lightning import Trainer

from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.module import SCORES, SegmentationModule
from segrefine.io.tensors import fingerprint
from segrefine.runs.folder import RunFolder
from segrefine.runs.per_image import write_per_image
from segrefine.runs.summary import Summary

log = logging.getLogger(__name__)


def score(
    trainer: Trainer, module: SegmentationModule, datamodule: SegmentationDataModule, folder: RunFolder
) -> dict[str, Any]:
    """Score the module's network on the data module's test split.

    Writes the counts of every image, logs the scores of a test split, and returns the split's part of the summary.
    """
    split = datamodule.test_split
    trainer.test(module, datamodule=datamodule, verbose=False)
    scores = module.test_scores
    if trainer.is_global_zero:
        ids = datamodule.dataset(split).ids
        named = [ids[index] for index in scores["indices"]]
        write_per_image(folder.per_image, named, scores["image_counts"], datamodule.classes)
    values = {name: finite(float(scores[name])) for name in SCORES}
    if split == "test":
        logged = {f"test/{name}": value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(logged, trainer.global_step)
            logger.finalize("success")
    per_class = zip(datamodule.classes, map(finite, scores["per_class"].tolist()), strict=True)
    rest = {"per_class": dict(per_class), "weights": fingerprint(module.net.state_dict())}
    return {"split": split, "num_images": len(scores["indices"]), **values, **rest}


def report(summary: Summary, folder: RunFolder) -> None:
    """Write the summary and log it."""
    summary.write(folder.summary)
    log.info(f"{render(summary)}\neverything is in {folder.path}")


def render(summary: Summary) -> str:
    """Return the scores as a small text table."""
    rows = [(name, getattr(summary, name)) for name in SCORES]
    rows += [("ece", summary.ece)] if summary.ece is not None else []
    rows += [(f"IoU {name}", iou) for name, iou in summary.per_class.items()]
    width = max(len(name) for name, _ in rows)
    head = f"{summary.model} over {summary.backbone}, {summary.num_images} images of {summary.split}:"
    lines = [f"  {name:<{width}}  {'absent' if value is None else f'{value:.4f}'}" for name, value in rows]
    return "\n".join([head, *lines])


def finite(value: float) -> float | None:
    """Return the value, or None instead of NaN or infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
