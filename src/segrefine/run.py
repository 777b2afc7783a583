"""A training run: config to objects to fit to scores. The one module that knows config, data and network together."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from torch.nn.modules.batchnorm import _BatchNorm

from segrefine.atomic import remove_parts, write_text
from segrefine.callbacks import EpochLine, GradientNorms, LastValidation, PanelWriter, Timer
from segrefine.checkpoint_io import LAST, previous
from segrefine.checkpointing import Checkpointing
from segrefine.checkpoints import Checkpoint, describe, load_weights, read_checkpoint
from segrefine.configs import changed_options
from segrefine.cost import count_parameters, measure_cost
from segrefine.data import create_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.errors import UserError
from segrefine.evaluation import LabelWriter, finite, render, score
from segrefine.left_out import LeftOutList
from segrefine.lit_module import SegmentationModule
from segrefine.loggers import LenientWandbLogger, create_loggers, finish_wandb, is_rank_zero
from segrefine.model import SegmentationModel, build_model
from segrefine.optimizers import create_optimizer, parameter_groups
from segrefine.schedules import schedule_factor
from segrefine.stopping import Stopped, StopRequest
from segrefine.summary import describe_environment, write_summary
from segrefine.trainer import create_trainer, peak_memory, reset_peak_memory

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train and score what `conf/train.yaml` composes, in `folder`; returns the content of summary.json."""
    succeeded = False
    try:
        with StopRequest() as stop, alone(folder):
            summary = _run(cfg, folder, stop)
        succeeded = True
        return summary
    except Stopped:
        last = folder / "checkpoints" / f"{LAST}.ckpt"
        if last.is_file():
            log.warning(f"To go on: the same command with ckpt_path={last}")
        raise
    finally:
        finish_wandb(succeeded)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """UserError if another process is at work on the run of this folder; else none can be until the block ends."""
    if not is_rank_zero():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is at work on the run in {folder}. Wait for its end, or stop it.") from None
    except (OSError, NotImplementedError) as error:  # some file systems of clusters have no locks
        log.warning(f"{folder} cannot be locked ({error}), so take care that no other process works on this run.")
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / ".lock").unlink()
        lock.release()


def _run(cfg: DictConfig, folder: Path, stop: StopRequest) -> dict[str, Any]:
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed} should be a whole number between 0 and {2**32 - 1}.")
    if not is_rank_zero():  # the first process speaks for all of them
        logging.getLogger().setLevel(logging.ERROR)
    seed_everything(cfg.seed, workers=True, verbose=False)
    reset_peak_memory()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    minutes = cfg.checkpoint_every_minutes
    if minutes is not None and not (isinstance(minutes, (int, float)) and minutes > 0):
        raise UserError(f"checkpoint_every_minutes={minutes} should be null or a number above 0.")
    datamodule = create_datamodule(cfg.datamodule)
    datamodule.run_seed = cfg.seed
    datamodule.setup()
    datamodule.train_dataloader()  # refuses batches larger than the set, as long as nothing is written
    if not config["trainer"]["limit_val_batches"]:
        raise UserError("trainer.limit_val_batches=0: the best checkpoint is chosen on val. Use 1 or more.")
    resumed = checkpoint_to_resume(cfg.ckpt_path, folder, config, datamodule.classes)
    if not resumed and not cfg.strict and not cfg.init_from:
        raise UserError("strict=false takes of init_from what fits: give init_from=CHECKPOINT.")
    if not resumed and cfg.init_from and not Path(cfg.init_from).expanduser().is_file():
        raise UserError(f"init_from={cfg.init_from}: there is no such file.")
    # All weights come from the checkpoint, if there is one, and the backbone's file need not be at hand any more.
    weights = None if resumed or cfg.init_from else cfg.backbone.weights
    net = build_model(config["model"], config["backbone"] | {"weights": weights}, datamodule.num_classes)
    if cfg.init_from and not resumed:
        load_weights(net, cfg.init_from, cfg.strict)
    recipe = resolve_recipe(config["recipe"], bool(cfg.backbone.weights or cfg.init_from), net, datamodule)
    cost = measure_cost(net, datamodule.image_size("val"))
    if is_rank_zero():
        folder.mkdir(parents=True, exist_ok=True)
        if resumed:
            remove_parts(folder)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        write_text(folder / "environment.txt", describe_environment())
        log.info(describe_network(config, net, cost))

    if cfg.compile:
        net.compile()
    module = SegmentationModule(net, datamodule.num_classes, recipe, seed=cfg.seed)
    timer, left_out = Timer(), LeftOutList()
    description = describe(config, datamodule.classes, datamodule.palette)
    checkpointing = Checkpointing(folder, minutes, stop, description)
    panels = PanelWriter(folder, datamodule.classes, datamodule.palette)
    callbacks = [timer, left_out, checkpointing, EpochLine(timer), panels, LastValidation(), LabelWriter(folder)]
    if cfg.log_gradients:
        callbacks.append(GradientNorms())
    loggers = create_loggers(config["logger"], folder, config)
    trainer = create_trainer(config["trainer"] | {"deterministic": cfg.deterministic}, folder, callbacks, loggers)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)

    if trainer.global_step < trainer.max_steps:
        steps = f"{trainer.global_step} of trainer.max_steps={trainer.max_steps}"
        log.info(f"trainer.max_epochs={trainer.max_epochs} ended the training, after {steps} steps")
    speed = {"train_seconds": timer.train_seconds, "images_per_second": timer.images_per_second}
    load_weights(net, checkpointing.best)
    split = "test" if datamodule.has_test else "val"
    names = {group: config[group]["name"] for group in ("model", "backbone", "datamodule")}
    scores = score(trainer, module, datamodule, split, folder)
    faults = {"left_out": left_out.entries, "skipped_steps": module.skipped_steps}
    memory = {"peak_memory_bytes": peak_memory(module.device)}
    best = {"val_mIoU": finite(checkpointing.best_score)}
    summary = {**names, "split": split, "seed": cfg.seed, **cost, **scores, **best, **speed, **memory, **faults}
    if trainer.is_global_zero:
        write_summary(folder, summary)
        for logger in loggers:
            if isinstance(logger, LenientWandbLogger):
                logger.keep_files(folder)
        left_out.warn()
        log.info(f"{render(summary)}\neverything is in {folder}")
    return summary


def describe_network(config: dict[str, Any], net: SegmentationModel, cost: dict[str, Any]) -> str:
    """The network's names and cost in one line."""
    parts = ", ".join(f"{count_parameters(getattr(net, part)) / 1e6:.2f} M {part}" for part in ("encoder", "decoder"))
    height, width = cost["flops_size"]
    return (
        f"{config['model']['name']} over {config['backbone']['name']}: {cost['params'] / 1e6:.2f} M parameters "
        f"({parts}), {cost['flops'] / 1e9:.2f} G multiply-adds at {height}x{width}"
    )


def resolve_recipe(
    recipe: dict[str, Any], pretrained: bool, net: SegmentationModel, datamodule: SegmentationDataModule
) -> dict[str, Any]:
    """The recipe with its `auto` values and class weights worked out."""
    recipe = dict(recipe)
    if recipe["encoder_lr_multiplier"] == "auto":
        recipe["encoder_lr_multiplier"] = 0.1 if pretrained else 2.5
    if recipe["class_weights"] == "median_frequency":
        recipe["class_weights"] = datamodule.median_frequency_weights().tolist()
        weights = zip(datamodule.classes, recipe["class_weights"], strict=True)
        log.info("class weights: " + ", ".join(f"{name} {weight:.4g}" for name, weight in weights))
    weights = recipe["class_weights"]
    if weights is not None and (isinstance(weights, str) or len(weights) != datamodule.num_classes):
        raise UserError(
            f"recipe.class_weights={weights} should be null, median_frequency or a list of {datamodule.num_classes} "
            "numbers, one a class."
        )
    if recipe["on_nonfinite"] not in ("stop", "skip"):
        raise UserError(f"recipe.on_nonfinite={recipe['on_nonfinite']} should be stop or skip.")
    if recipe["loss"] not in ("mean", "sum"):
        raise UserError(f"recipe.loss={recipe['loss']} should be mean or sum.")
    # Made and thrown away: mistakes in their options are told before anything is written.
    create_optimizer(recipe["optimizer"], parameter_groups(net, recipe["lr"], recipe["weight_decay"]))
    schedule_factor(total_steps=1, **recipe["schedule"])
    clip_norm = recipe["clip_norm"]
    if clip_norm is not None and not (isinstance(clip_norm, (int, float)) and clip_norm > 0):
        raise UserError(f"recipe.clip_norm={clip_norm} should be null or a number above 0.")
    if recipe["frozen_norm"] and not pretrained and any(isinstance(module, _BatchNorm) for module in net.modules()):
        log.warning("recipe.frozen_norm=true over random weights: batch norm will do nothing. Give backbone.weights.")
    return recipe


def refuse_other_run(checkpoint: Checkpoint, config: dict[str, Any], classes: list[str]) -> None:
    """UserError if the checkpoint to go on from is of another network or other data than the command line says."""
    path = checkpoint.path
    if not checkpoint.config:
        raise UserError(f"{path} is not a checkpoint of a run. To start a new run from its weights, use init_from.")
    for group, keys in (("model", None), ("backbone", None), ("datamodule", {"name"})):
        before, now = checkpoint.config[group], config[group]
        for key in sorted(keys or before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise UserError(
                    f"{path} is of a run with {group}.{key}={before.get(key)}, not {now.get(key)}. To go on with it, "
                    "give the options of its config.yaml; to go on with another, ckpt_path=PATH; to start a new run "
                    "from its weights, init_from."
                )
    if checkpoint.classes != classes:
        raise UserError(f"{path} knows the classes {', '.join(checkpoint.classes)}; the data has {', '.join(classes)}.")


def checkpoint_to_resume(
    ckpt_path: str | None, folder: Path, config: dict[str, Any], classes: list[str]
) -> Path | None:
    """The path of the checkpoint that `ckpt_path` means, which is whole and of such a run."""
    checkpoint = find_checkpoint(ckpt_path, folder)
    if checkpoint is None:
        return None
    refuse_other_run(checkpoint, config, classes)
    changed = changed_options(checkpoint.config, config)
    if changed:
        log.warning(f"Going on with other options than before, so to another end: {', '.join(changed)}.")
    return checkpoint.path


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from: `last` means the one in the run's own folder (see `segrefine.cli.run_folder`), or
    the one before where that is damaged, which is logged."""
    if ckpt_path is None:
        return None
    path = folder / "checkpoints" / f"{LAST}.ckpt" if ckpt_path == "last" else Path(ckpt_path).absolute()
    if not path.is_file():
        newest = "no earlier run of this model and backbone left one under outputs/ (in a sweep, give the path)"
        where = newest if ckpt_path == "last" else "no such file"
        raise UserError(f"ckpt_path={ckpt_path}: {where}. Leave ckpt_path out to start anew.")
    try:
        return read_checkpoint(path)
    except UserError as error:
        if ckpt_path != "last" or not previous(path).is_file():
            raise
        log.warning(f"{error} Going on from the one before it, {previous(path)}.")
        return read_checkpoint(previous(path))
