"""`train`: a run from config to summary. Check the options, build the objects, fit, score, write."""

import logging
import os
import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch.nn.modules.batchnorm import _BatchNorm

from segrefine.core.errors import UserError
from segrefine.core.signals import Stopped, StopRequest
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.engine.callbacks.checkpoint import Checkpointing
from segrefine.engine.callbacks.dead_units import DeadUnits
from segrefine.engine.callbacks.early_stopping import Patience
from segrefine.engine.callbacks.ema import WeightEMA
from segrefine.engine.callbacks.gradients import GradientNorms
from segrefine.engine.callbacks.last_validation import LastValidation
from segrefine.engine.callbacks.pictures import LabelWriter, PanelWriter
from segrefine.engine.callbacks.progress import EpochLine, ScoringLines, StepLog, Throughput, TrainingBar
from segrefine.engine.loggers import create_loggers
from segrefine.engine.loggers.wandb import LenientWandbLogger, finish_wandb
from segrefine.engine.module import SegmentationModule
from segrefine.engine.optim import create_optimizer, parameter_groups
from segrefine.engine.recipe import Recipe
from segrefine.engine.resume import checkpoint_to_resume
from segrefine.engine.score import finite, report, score
from segrefine.engine.trainer import (
    check_share,
    check_trainer,
    create_trainer,
    is_rank_zero,
    peak_memory,
    quiet_others,
    reset_peak_memory,
    shows_bar,
)
from segrefine.io.atomic import remove_parts, write_text
from segrefine.models.build import build_model
from segrefine.models.cost import count_parameters, measure_cost
from segrefine.models.encoders.base import MIN_SIDE, scaled_size
from segrefine.models.network import SegmentationModel
from segrefine.runs.environment import describe_environment
from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary
from segrefine.weights.checkpoint import describe, load_weights

log = logging.getLogger(__name__)

PLAIN_NORMS = {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A training whose options were checked.

    Attributes:
        config: resolved, in plain containers.
        resumed: the checkpoint to resume from, None for a new run.
        cost: the network's part of the summary.
    """

    config: dict[str, Any]
    folder: RunFolder
    datamodule: SegmentationDataModule
    resumed: Path | None
    net: SegmentationModel
    recipe: Recipe
    cost: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The objects that carry out a training."""

    trainer: Trainer
    module: SegmentationModule
    checkpointing: Checkpointing
    timer: Throughput
    dead_units: DeadUnits | None


def train(cfg: DictConfig, path: Path) -> Summary:
    """Train and score what `conf/train.yaml` composes, in the folder `path`."""
    folder, succeeded = RunFolder(path), False
    try:
        with StopRequest() as stop, folder.alone() if is_rank_zero() else nullcontext():
            setup = check(cfg, folder)
            training = build(setup, stop)
            begin(setup, cfg, training)
            fit(setup, training)
            summary = finish(setup, training)
        succeeded = True
        return summary
    except Stopped:
        if folder.last.is_file():
            log.warning(f"To resume: the same command with ckpt_path={folder.last}")
        raise
    finally:
        finish_wandb(succeeded)


def check(cfg: DictConfig, folder: RunFolder) -> Setup:
    """Check every option before anything is computed or written; UserError for a wrong one."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    check_trainer(config["trainer"])
    quiet_others()
    seed_everything(config["seed"], workers=True, verbose=False)
    reset_peak_memory()
    datamodule = build_datamodule(config["datamodule"], run_seed=config["seed"])
    datamodule.setup()
    _check_batches(datamodule, config["trainer"])
    resumed = checkpoint_to_resume(config["ckpt_path"], folder, config, datamodule.classes)
    if is_rank_zero():
        folder.check_free(resumed)
    net = _build_network(config, datamodule, resumed)
    pretrained = bool(config["backbone"]["weights"] or config["init_from"])
    recipe = Recipe.from_config(config["recipe"]).resolve(pretrained, datamodule)
    recipe.check_norms(pretrained, net)
    recipe.check_loss(net)
    create_optimizer(parameter_groups(net, recipe, recipe.lr), recipe)  # to see that it can be made
    _check_batch_norm(net, recipe, datamodule)
    _check_synchronized(net, config["trainer"])
    cost = measure_cost(net, datamodule.image_size("val"))
    return Setup(
        config=config, folder=folder, datamodule=datamodule, resumed=resumed, net=net, recipe=recipe, cost=cost
    )


def _check_batches(datamodule: SegmentationDataModule, trainer: dict[str, Any]) -> None:
    """Raise UserError for a share of a split that leaves no batch of it."""
    for split in SPLITS:
        loader = getattr(datamodule, f"{split}_dataloader")()  # refuses batches larger than the set
        limit = trainer[f"limit_{split}_batches"]
        check_share(limit, len(loader), split)
        interval, by_epoch = trainer.get("val_check_interval"), trainer["check_val_every_n_epoch"] is not None
        batches = min(len(loader), limit) if isinstance(limit, int) else int(limit * len(loader))
        if split == "train" and by_epoch and isinstance(interval, int) and interval > batches:
            raise UserError(f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch.")


def _check_batch_norm(net: SegmentationModel, recipe: Recipe, datamodule: SegmentationDataModule) -> None:
    """Raise UserError for batches of one image whose coarsest map is one cell: one value a channel has no variance."""
    size = datamodule.train_transform.crop_size or datamodule.image_size("train")
    halved = [(side + 1) // 2 for side in size] if recipe.progressive_resizing else size
    smallest = scaled_size(halved, min(net.encoder.scales))
    norms = not recipe.frozen_norm and any(isinstance(module, _BatchNorm) for module in net.modules())
    if datamodule.batch_size == 1 and max(smallest) <= MIN_SIDE and norms:
        raise UserError(
            f"datamodule.batch_size=1 with images of {size[0]}x{size[1]}, which the network sees at {smallest[0]}x"
            f"{smallest[1]}, leaves batch norm one value per channel. Set datamodule.batch_size=2 or more, a larger "
            "datamodule.crop_size or recipe.frozen_norm=true."
        )


def _check_synchronized(net: SegmentationModel, trainer: dict[str, Any]) -> None:
    """Raise UserError without GPUs, and for norms that do more, such as timm's, which Lightning would make plain."""
    more = {type(module).__name__ for module in net.modules() if isinstance(module, _BatchNorm)} - PLAIN_NORMS
    if trainer["sync_batchnorm"] and more:
        raise UserError(
            f"trainer.sync_batchnorm=true would replace the {more.pop()} of backbone=timm, which holds the activation "
            "too, by a plain norm. Leave it out, or use another backbone."
        )
    if trainer["sync_batchnorm"] and (trainer["accelerator"] == "cpu" or not torch.cuda.is_available()):
        raise UserError("trainer.sync_batchnorm=true takes GPUs: PyTorch has none for the CPU. Leave it out.")


def _build_network(
    config: dict[str, Any], datamodule: SegmentationDataModule, resumed: Path | None
) -> SegmentationModel:
    """Build the network with the weights that a new run starts from; a resumed one gets all from its checkpoint."""
    init_from, strict = config["init_from"], config["strict"]
    if not resumed and not strict and not init_from:
        raise UserError("strict=false applies to init_from. Give init_from=CHECKPOINT.")
    if not resumed and init_from and not Path(init_from).expanduser().is_file():
        raise UserError(f"init_from={init_from}: there is no such file.")
    # The backbone's own file need not be at hand any more where all weights come from elsewhere.
    weights = None if resumed or init_from else config["backbone"]["weights"]
    backbone = config["backbone"] | {"weights": weights}
    net = build_model(config["model"], backbone, datamodule.num_classes, datamodule.in_channels)
    if init_from and not resumed:
        load_weights(net, init_from, strict)
    return net


def begin(setup: Setup, cfg: DictConfig, training: Training) -> None:
    """Write what is known of the run before it begins, log the network and start the loggers."""
    if is_rank_zero():
        setup.folder.path.mkdir(parents=True, exist_ok=True)
        if setup.resumed:
            remove_parts(setup.folder.path)
        write_text(setup.folder.config, OmegaConf.to_yaml(cfg, resolve=True))
        write_text(setup.folder.environment, describe_environment())
        log.info(describe_network(setup))
        if share := setup.recipe.progressive_resizing:
            log.info(f"the first {share:.0%} of the steps see images of half the size; until then val scores stay low")
    training.trainer.loggers = create_loggers(setup.config["logger"], setup.folder, setup.config)


def describe_network(setup: Setup) -> str:
    """Return the network's names and cost in one line."""
    cost, (height, width) = setup.cost, setup.cost["flops_size"]
    encoder, decoder = (count_parameters(part) / 1e6 for part in (setup.net.encoder, setup.net.decoder))
    return (
        f"{setup.config['model']['name']} over {setup.config['backbone']['name']}: {cost['params'] / 1e6:.2f} M "
        f"parameters ({encoder:.2f} M encoder, {decoder:.2f} M decoder), {cost['flops'] / 1e9:.2f} G multiply-adds at "
        f"{height}x{width}"
    )


def build(setup: Setup, stop: StopRequest) -> Training:
    """Make the module, the trainer and what is attached to it."""
    config, folder, data = setup.config, setup.folder, setup.datamodule
    if config["compile"]:
        setup.net.compile()
    module = SegmentationModule(setup.net, setup.recipe, seed=config["seed"])
    timer = Throughput()
    description = describe(config, data.classes, data.palette)
    checkpointing = Checkpointing(folder, config["checkpoint_every_minutes"], stop, description)
    steps = StepLog()
    callbacks: list[Callback] = [timer, steps, checkpointing, EpochLine(timer)]
    callbacks.append(TrainingBar(timer, steps) if shows_bar(config["trainer"]) else ScoringLines(data.test_split))
    callbacks += [PanelWriter(folder, data.classes, data.palette), LastValidation(), LabelWriter(folder)]
    ema, patience = setup.recipe.ema, config["trainer"].get("early_stopping")
    callbacks += [GradientNorms()] if config["log_gradients"] else []
    callbacks += [WeightEMA(ema)] if ema is not None else []
    callbacks += [Patience(patience)] if patience else []
    dead_units = DeadUnits() if config["log_dead_units"] else None
    callbacks += [dead_units] if dead_units else []
    return Training(
        trainer=create_trainer(config["trainer"], folder.path, callbacks, config["deterministic"]),
        module=module,
        checkpointing=checkpointing,
        timer=timer,
        dead_units=dead_units,
    )


def fit(setup: Setup, training: Training) -> None:
    """Train, from the start or from the checkpoint."""
    trainer = training.trainer
    trainer.fit(training.module, datamodule=setup.datamodule, ckpt_path=setup.resumed, weights_only=True)
    patience = trainer.early_stopping_callback
    stopped = patience is not None and patience.wait_count >= patience.patience
    if trainer.global_step < trainer.max_steps and not stopped:
        steps = f"{trainer.global_step} of trainer.max_steps={trainer.max_steps}"
        log.info(f"trainer.max_epochs={trainer.max_epochs} ended the training, after {steps} steps")


def finish(setup: Setup, training: Training) -> Summary:
    """Score the best checkpoint and write the summary."""
    timer, module = training.timer, training.module
    seconds, rate = timer.train_seconds, timer.images_per_second  # which the test overwrites
    load_weights(setup.net, training.checkpointing.best)
    setup.net.drop_auxiliary()
    scores = score(training.trainer, module, setup.datamodule, setup.folder)
    summary = Summary(
        **{group: setup.config[group]["name"] for group in ("model", "backbone", "datamodule")},
        **setup.cost,
        **scores,
        train_seconds=seconds,
        images_per_second=rate,
        seed=setup.config["seed"],
        val_mIoU=finite(training.checkpointing.best_score),
        peak_memory_bytes=peak_memory(training.trainer.strategy.root_device),
        skipped_steps=module.skipped_steps,
        dead_units=training.dead_units.shares if training.dead_units else None,
    )
    if training.trainer.is_global_zero:
        report(summary, setup.folder)
        log.info(next_steps(setup.folder, summary.split))
        for logger in training.trainer.loggers:
            if isinstance(logger, LenientWandbLogger):
                logger.keep_files(setup.folder)
    return summary


def next_steps(folder: RunFolder, split: str) -> str:
    """Return where the last pictures are and what to type next, as lines of text."""
    path = Path(os.path.relpath(folder.path)) if folder.path.is_relative_to(Path.cwd()) else folder.path
    run = RunFolder(path)
    lines = [f"predictions beside the truth are in {run.panels[-1]}"] if run.panels else []
    checkpoint, runs = shlex.quote(f"checkpoint={run.best}"), shlex.quote(f"runs=[{path},ANOTHER_RUN]")
    lines += [
        "next:",
        f"  segrefine evaluate {checkpoint} split={split} tta.flip=true",
        f"  segrefine predict {checkpoint} input=PHOTOS output=FOLDER",
        f"  segrefine compare {runs} output=FOLDER",
    ]
    return "\n".join(lines)
