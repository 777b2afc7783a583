"""Find the checkpoint that a run resumes from, and check that it is of this run."""

import logging
from pathlib import Path
from typing import Any

from segrefine.core.errors import UserError
from segrefine.core.options import defaults
from segrefine.core.registry import DECODERS
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.recipe import Recipe
from segrefine.models.build import NetworkOptions
from segrefine.models.encoders import EncoderOptions
from segrefine.runs.folder import RunFolder, previous
from segrefine.runs.options import AT_THE_START, FOLD_OPTIONS, HARMLESS, changed_options
from segrefine.weights.checkpoint import Checkpoint, read_checkpoint

log = logging.getLogger(__name__)


def checkpoint_to_resume(
    ckpt_path: str | None, folder: RunFolder, config: dict[str, Any], classes: list[str]
) -> Path | None:
    """Return the path of the checkpoint that `ckpt_path` means, whole and of such a run, or None to start a new run.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of another run.
    """
    checkpoint = find_checkpoint(ckpt_path, folder)
    if checkpoint is None:
        return None
    refuse_other_run(checkpoint, config, classes)
    if changed := changed_options(complete(checkpoint.config), complete(config), HARMLESS | AT_THE_START):
        log.warning(f"Resuming with other options than before, so to another end: {', '.join(changed)}.")
    return checkpoint.path


def find_checkpoint(ckpt_path: str | None, folder: RunFolder) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None to start a new run; UserError for no file or a damaged one.

    `last` means the one in the run's own folder, or the one before it if that is damaged. A folder without a checkpoint
    starts a new run, so that a scheduler's script can be one line. Either is logged.
    """
    if ckpt_path is None:
        return None
    path = folder.last if ckpt_path == "last" else Path(ckpt_path).expanduser().absolute()
    if not path.is_file():
        if ckpt_path != "last":
            raise UserError(f"ckpt_path={ckpt_path}: there is no such file. Remove ckpt_path to start a new run.")
        log.info(f"ckpt_path=last: there is no checkpoint in {folder.path}, so a new run starts.")
        return None
    try:
        return read_checkpoint(path)
    except UserError as error:
        if ckpt_path != "last" or not previous(path).is_file():
            raise
        log.warning(f"{error} Resuming from the one before it, {previous(path)}.")
        return read_checkpoint(previous(path))


def refuse_other_run(checkpoint: Checkpoint, config: dict[str, Any], classes: list[str]) -> None:
    """Raise UserError if the checkpoint to resume from is of another network or other data than the config."""
    path = checkpoint.path
    if not checkpoint.config:
        raise UserError(f"{path} is not a checkpoint of a run. To start a new run from its weights, use init_from.")
    data = {"name", "in_channels", *FOLD_OPTIONS, *(("sequence_pattern",) if config["datamodule"].get("folds") else ())}
    for group, keys in (("model", None), ("backbone", None), ("datamodule", data)):
        before, now = complete(checkpoint.config)[group], complete(config)[group]
        for key in sorted((keys or before.keys() | now.keys()) - {"init"}):  # the weights are the checkpoint's
            if before.get(key) != now.get(key):
                # Weights of another fold were trained on the images to validate on.
                anew = "; to start a new run from its weights, init_from" if key not in FOLD_OPTIONS else ""
                raise UserError(
                    f"{path} is of a run with {group}.{key}={before.get(key)}, not {now.get(key)}. To resume it, "
                    f"give the options of its {RunFolder.CONFIG}; to resume another, ckpt_path=PATH{anew}."
                )
    if checkpoint.classes != classes:
        raise UserError(
            f"{path} has the classes {', '.join(checkpoint.classes)}, but the data has {', '.join(classes)}."
        )


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Add the options that an older config lacks, with what was in effect then.

    These are the defaults of their classes, which can differ from those of the files in `conf/`.
    """
    kinds = {
        "model": (NetworkOptions, DECODERS.find(config["model"].get(DECODERS.key)).Options),
        "backbone": (EncoderOptions,),
        "recipe": (Recipe,),
    }
    then = {
        group: {name: value for kind in own for name, value in defaults(kind).items()} for group, own in kinds.items()
    }
    then["datamodule"] = {"in_channels": SegmentationDataModule.in_channels}
    return config | {group: options | config[group] for group, options in then.items()}
