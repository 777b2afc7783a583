"""`train`: a run from config to summary. Check the options, build the objects, fit, score, write."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from segrefine.core.errors import UserError
from segrefine.core.signals import Stopped, StopRequest
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.callbacks.checkpoint import Checkpointing
from segrefine.engine.callbacks.gradients import GradientNorms
from segrefine.engine.callbacks.last_validation import LastValidation
from segrefine.engine.callbacks.pictures import LabelWriter, PanelWriter
from segrefine.engine.callbacks.progress import EpochLine, Timer
from segrefine.engine.loggers import create_loggers
from segrefine.engine.loggers.wandb import LenientWandbLogger, finish_wandb
from segrefine.engine.module import SegmentationModule
from segrefine.engine.optim import create_optimizer, parameter_groups
from segrefine.engine.recipe import Recipe
from segrefine.engine.resume import checkpoint_to_resume
from segrefine.engine.score import finite, report, score
from segrefine.engine.trainer import create_trainer, is_rank_zero, peak_memory, reset_peak_memory
from segrefine.io.atomic import remove_parts, write_text
from segrefine.models.build import build_model
from segrefine.models.cost import count_parameters, measure_cost
from segrefine.models.encoders.base import pad_small
from segrefine.models.network import SegmentationModel
from segrefine.runs.environment import describe_environment
from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary
from segrefine.weights.checkpoint import describe, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training whose options were checked.

    Attributes:
        config: resolved, in plain containers. resumed: the checkpoint to resume from, None for a new run.
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
    """What a job is carried out with."""

    trainer: Trainer
    module: SegmentationModule
    checkpointing: Checkpointing
    timer: Timer
    loggers: list[Logger]


def train(cfg: DictConfig, path: Path) -> Summary:
    """Train and score what `conf/train.yaml` composes, in the folder `path`."""
    folder, succeeded = RunFolder(path), False
    try:
        with StopRequest() as stop, _alone(folder):
            job = check(cfg, folder)
            begin(job, cfg)
            training = build(job, stop)
            fit(job, training)
            summary = finish(job, training)
        succeeded = True
        return summary
    except Stopped:
        if folder.last.is_file():
            log.warning(f"To resume: the same command with ckpt_path={folder.last}")
        raise
    finally:
        finish_wandb(succeeded)


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Keep other runs out of the folder; of several processes of one run the first does."""
    if not is_rank_zero():
        yield
        return
    with folder.alone():
        yield


def check(cfg: DictConfig, folder: RunFolder) -> Job:
    """Check every option as far as that is possible before anything is written; UserError for what is wrong."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    _check_values(config)
    if not is_rank_zero():  # the first process speaks for all of them
        logging.getLogger().setLevel(logging.ERROR)
    seed_everything(config["seed"], workers=True, verbose=False)
    reset_peak_memory()
    datamodule = build_datamodule(config["datamodule"], run_seed=config["seed"])
    datamodule.setup()
    for loader in (datamodule.train_dataloader, datamodule.val_dataloader):
        loader()  # refuses batches that cannot be made
    resumed = checkpoint_to_resume(config["ckpt_path"], folder, config, datamodule.classes)
    net = _build_network(config, datamodule, resumed)
    pretrained = bool(config["backbone"]["weights"] or config["init_from"])
    recipe = Recipe.from_config(config["recipe"]).resolve(pretrained, datamodule)
    recipe.check_norms(pretrained, net)
    create_optimizer(parameter_groups(net, recipe, recipe.lr), recipe)  # to see that it can be made
    check_batch_norm(net, recipe, datamodule)
    cost = measure_cost(net, datamodule.image_size("val"))
    return Job(config=config, folder=folder, datamodule=datamodule, resumed=resumed, net=net, recipe=recipe, cost=cost)


def _check_values(config: dict[str, Any]) -> None:
    seed, minutes = config["seed"], config["checkpoint_every_minutes"]
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} should be a whole number between 0 and {2**32 - 1}.")
    if minutes is not None and not (isinstance(minutes, (int, float)) and minutes > 0):
        raise UserError(f"checkpoint_every_minutes={minutes} should be null or a number above 0.")
    if not config["trainer"]["limit_val_batches"]:
        raise UserError("trainer.limit_val_batches=0: the best checkpoint is chosen on val. Use 1 or more.")


def _build_network(
    config: dict[str, Any], datamodule: SegmentationDataModule, resumed: Path | None
) -> SegmentationModel:
    """The network, with the weights that a new run starts from; a resumed one gets all of them from its checkpoint."""
    init_from, strict = config["init_from"], config["strict"]
    if not resumed and not strict and not init_from:
        raise UserError("strict=false takes of init_from what fits: give init_from=CHECKPOINT.")
    if not resumed and init_from and not Path(init_from).expanduser().is_file():
        raise UserError(f"init_from={init_from}: there is no such file.")
    # The backbone's own file need not be at hand any more where all weights come from elsewhere.
    weights = None if resumed or init_from else config["backbone"]["weights"]
    net = build_model(config["model"], config["backbone"] | {"weights": weights}, datamodule.num_classes)
    if init_from and not resumed:
        load_weights(net, init_from, strict)
    return net


def check_batch_norm(net: SegmentationModel, recipe: Recipe, datamodule: SegmentationDataModule) -> None:
    """UserError if a batch of one image leaves batch norm a single value a channel, which has no variance."""
    if datamodule.batch_size > 1:
        return
    size = datamodule.train_transform.crop_size or datamodule.image_size("train")
    SegmentationModule(net, recipe).train()  # with frozen norms in their mode
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):  # nothing is computed, no buffer changes
            fakes = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
            torch.func.functional_call(net, fakes, (pad_small(torch.empty(1, 3, *size)),))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"With datamodule.batch_size=1 and images of {size[0]}x{size[1]}, batch norm gets a single value per "
            "channel. Set datamodule.batch_size=2 or more, a larger datamodule.crop_size or recipe.frozen_norm=true."
        ) from None


def begin(job: Job, cfg: DictConfig) -> None:
    """Write what is known of the run before it begins, and log the network."""
    if not is_rank_zero():
        return
    job.folder.path.mkdir(parents=True, exist_ok=True)
    if job.resumed:
        remove_parts(job.folder.path)
    write_text(job.folder.config, OmegaConf.to_yaml(cfg, resolve=True))
    write_text(job.folder.environment, describe_environment())
    log.info(describe_network(job))


def describe_network(job: Job) -> str:
    """The network's names and cost in one line."""
    cost, (height, width) = job.cost, job.cost["flops_size"]
    parts = ", ".join(
        f"{count_parameters(getattr(job.net, part)) / 1e6:.2f} M {part}" for part in ("encoder", "decoder")
    )
    return (
        f"{job.config['model']['name']} over {job.config['backbone']['name']}: {cost['params'] / 1e6:.2f} M parameters "
        f"({parts}), {cost['flops'] / 1e9:.2f} G multiply-adds at {height}x{width}"
    )


def build(job: Job, stop: StopRequest) -> Training:
    """Make the module, the trainer and what is attached to it."""
    config, folder, data = job.config, job.folder, job.datamodule
    if config["compile"]:
        job.net.compile()
    module = SegmentationModule(job.net, job.recipe, seed=config["seed"])
    timer = Timer()
    description = describe(config, data.classes, data.palette)
    checkpointing = Checkpointing(folder, config["checkpoint_every_minutes"], stop, description)
    callbacks: list[Callback] = [timer, checkpointing, EpochLine(timer)]
    callbacks += [PanelWriter(folder, data.classes, data.palette), LastValidation(), LabelWriter(folder)]
    if config["log_gradients"]:
        callbacks.append(GradientNorms())
    loggers = create_loggers(config["logger"], folder, config)
    options = config["trainer"] | {"deterministic": config["deterministic"]}
    return Training(
        trainer=create_trainer(options, folder.path, callbacks, loggers),
        module=module,
        checkpointing=checkpointing,
        timer=timer,
        loggers=loggers,
    )


def fit(job: Job, training: Training) -> None:
    """Train, from the start or from the checkpoint."""
    trainer = training.trainer
    trainer.fit(training.module, datamodule=job.datamodule, ckpt_path=job.resumed, weights_only=True)
    if trainer.global_step < trainer.max_steps:
        steps = f"{trainer.global_step} of trainer.max_steps={trainer.max_steps}"
        log.info(f"trainer.max_epochs={trainer.max_epochs} ended the training, after {steps} steps")


def finish(job: Job, training: Training) -> Summary:
    """Score the best checkpoint and write the summary."""
    timer, module = training.timer, training.module
    seconds, rate = timer.train_seconds, timer.images_per_second  # which the test measures anew
    load_weights(job.net, training.checkpointing.best)
    scores = score(training.trainer, module, job.datamodule, job.folder)
    summary = Summary(
        **{group: job.config[group]["name"] for group in ("model", "backbone", "datamodule")},
        **job.cost,
        **scores,
        train_seconds=seconds,
        images_per_second=rate,
        seed=job.config["seed"],
        val_mIoU=finite(training.checkpointing.best_score),
        peak_memory_bytes=peak_memory(module.device),
        skipped_steps=module.skipped_steps,
    )
    if training.trainer.is_global_zero:
        report(summary, job.folder)
        for logger in training.loggers:
            if isinstance(logger, LenientWandbLogger):
                logger.keep_files(job.folder)
    return summary
