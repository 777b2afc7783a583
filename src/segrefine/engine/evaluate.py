"""`evaluate`: a checkpoint, or published weights, scored on a split."""

import logging
from pathlib import Path
from typing import Any

from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from segrefine.core.errors import UserError
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.data.submission import check_benchmark
from segrefine.engine.callbacks.pictures import PredictionWriter
from segrefine.engine.callbacks.progress import ScoringLines, Throughput
from segrefine.engine.module import SegmentationModule
from segrefine.engine.reliability import write_reliability
from segrefine.engine.score import finite, report, score
from segrefine.engine.trainer import (
    check_share,
    create_trainer,
    peak_memory,
    quiet_others,
    reset_peak_memory,
    shows_bar,
)
from segrefine.io.atomic import write_text
from segrefine.models.cost import measure_cost
from segrefine.models.crf import create_refinement
from segrefine.models.tta import TestTimeAugmentation
from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary
from segrefine.weights.checkpoint import Checkpoint, read_checkpoint, restore

log = logging.getLogger(__name__)

SCORING = ("accelerator", "devices", "strategy", "num_nodes", "precision", "limit_val_batches", "limit_test_batches")
"""Options of the group `trainer` that concern scoring. The others kept with an evaluation are its training's."""


def evaluate(cfg: DictConfig, path: Path, checkpoint: Checkpoint | None = None) -> Summary:
    """Score a checkpoint as `conf/evaluate.yaml` says, with results in the folder `path`.

    Where `cfg.checkpoint` was read before, `checkpoint` is what it holds.
    """
    _check_options(cfg)
    quiet_others()
    reset_peak_memory()
    folder = RunFolder(path)
    folder.check_free()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    checkpoint = checkpoint or read_checkpoint(Path(cfg.checkpoint))
    datamodule = _build_data(config, checkpoint)
    net = restore(checkpoint, config["model"], config["backbone"], datamodule.num_classes)
    refine = create_refinement(net, config["post"], config["crf"])
    inference = TestTimeAugmentation(net, **config["tta"], window=config["window"], refine=refine)
    module = SegmentationModule(net, inference=inference, calibrated=True)
    check_benchmark(cfg.submission, datamodule.num_classes)
    callbacks = [timer := Throughput(), *_choose_callbacks(cfg, folder, datamodule)]
    limit = config["trainer"][f"limit_{cfg.split}_batches"]  # for the split is scored as the trainer's test split
    check_share(limit, len(datamodule.test_dataloader()), cfg.split)
    trainer = create_trainer(config["trainer"] | {"limit_test_batches": limit}, path, callbacks)
    cost = measure_cost(net, datamodule.image_size(cfg.split))
    scores = score(trainer, module, datamodule, folder)
    summary = Summary(
        **{group: config[group]["name"] for group in ("model", "backbone", "datamodule")},
        **{key: config[key] for key in ("tta", "window", "post")},
        **cost,
        **scores,
        ece=finite(module.reliability.error),
        seed=checkpoint.config.get("seed"),
        checkpoint=str(cfg.checkpoint),
        images_per_second=timer.images_per_second,
        peak_memory_bytes=peak_memory(trainer.strategy.root_device),
    )
    if trainer.is_global_zero:
        write_text(folder.config, OmegaConf.to_yaml(_complete(config, checkpoint)))
        write_reliability(module.reliability, folder)
        report(summary, folder)
    return summary


def _check_options(cfg: DictConfig) -> None:
    if cfg.checkpoint is None:
        raise UserError(f"Give checkpoint=PATH, such as {RunFolder.BEST} of a run.")
    if cfg.save_predictions and cfg.submission:
        raise UserError(f"submission={cfg.submission} takes the place of save_predictions=true. Give one of them.")


def _choose_callbacks(cfg: DictConfig, folder: RunFolder, datamodule: SegmentationDataModule) -> list[Callback]:
    """Make the callbacks that the options ask for: pictures, and lines in the log in place of a progress bar."""
    callbacks: list[Callback] = []
    if cfg.save_predictions or cfg.submission:
        callbacks.append(PredictionWriter(folder, datamodule.classes, datamodule.palette, cfg.submission))
    if not shows_bar(cfg.trainer):
        callbacks.append(ScoringLines(cfg.split))
    return callbacks


def _build_data(config: dict[str, Any], checkpoint: Checkpoint) -> SegmentationDataModule:
    """Build the data module, with `config["split"]` as its test split; UserError if it does not fit the checkpoint."""
    split, given = config["split"], config["datamodule"]
    if given.get("name") is None:
        raise UserError(f"{checkpoint.path} does not name its data set. Give datamodule=NAME.")
    if split != "test":
        warn_of_other_fold(checkpoint, given)
    datamodule = build_datamodule(given, test_split=split)
    if split == "test" and not datamodule.has_test:
        raise UserError(f"datamodule={given['name']} has no labels for split=test here. Use split=val.")
    if datamodule.in_channels != checkpoint.in_channels:
        raise UserError(
            f"{checkpoint.path} takes images of {checkpoint.in_channels} channels, but those of "
            f"datamodule={given['name']} have {datamodule.in_channels} (datamodule.in_channels)."
        )
    if checkpoint.classes and datamodule.classes != checkpoint.classes:
        raise UserError(
            f"{checkpoint.path} has {len(checkpoint.classes)} classes ({', '.join(checkpoint.classes)}), but "
            f"datamodule={given['name']} has {datamodule.num_classes} ({', '.join(datamodule.classes)})."
        )
    return datamodule


def _complete(config: dict[str, Any], checkpoint: Checkpoint) -> DictConfig:
    """Add how the network was trained, where its checkpoint says so: by that, `compare` can tell variants apart.

    Of weights alone, the file takes the place of a training.
    """
    if not (trained := checkpoint.config):
        return OmegaConf.create(config | {"init_from": str(checkpoint.path)})
    options = {key: trained[key] for key in ("recipe", "init_from") if key in trained}
    own = {key: value for key, value in config["trainer"].items() if key in SCORING}
    return OmegaConf.create(config | options | {"trainer": config["trainer"] | trained.get("trainer", {}) | own})


def warn_of_other_fold(checkpoint: Checkpoint, given: dict[str, Any]) -> None:
    """Warn if the checkpoint is of the same data set, but of another fold: it may have seen the images of val."""
    before = checkpoint.config.get("datamodule") or {}
    if before.get("name") == given["name"] and any(before.get(key) != given.get(key) for key in ("fold", "folds")):
        log.warning(
            f"{checkpoint.path} was trained with datamodule.fold={before.get('fold')} and folds={before.get('folds')}. "
            "The images to score may be among those that it was trained on."
        )
