"""The commands' shell: Hydra with help in words, one clear message for a user's mistake, and the run's folder.

Nothing heavy is imported here: `--help` and config errors answer at once.
"""

import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segrefine.configs import CONFIG_FOLDER, flatten, read_group
from segrefine.errors import UserError, did_you_mean
from segrefine.failures import explain_failure
from segrefine.jobs import run_job, telling_workers
from segrefine.sweeps import describe_sweep, sweep_folder, sweep_options
from segrefine.terminal import printable

log = logging.getLogger(__name__)

# For tensors of 2 MiB and more PyTorch then asks Linux for huge pages: on a CPU, a quarter of a training step over
# VGG's fc6 goes to page faults otherwise (docs/performance.md). Read when torch first takes memory, so set before that.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

PLUGINS = {"joblib": "joblib", "optuna": "optuna", "submitit_slurm": "slurm", "submitit_local": "slurm"}
"""Values of Hydra's own groups that come with an extra of ours."""

MISTAKE = 2
"""Exit status after a user's mistake, or a fault of the machine that a user can put right."""


def main(
    config_name: str, task: Callable[[DictConfig, Path], Any], prepare: Callable[[list[str]], None] | None = None
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and call `task(cfg, folder)`. Each job of a sweep is the
    same command in a process of its own (see `run_job`).

    `prepare` gets the arguments, none if they ask for help, before anything is composed. `folder` is where the job's
    output belongs. Exits with status 2 and one message for a mistake in options or files, or a fault
    of the machine.
    """
    logging.raiseExceptions = False  # a train.log that cannot be written, on a full disk, costs no traceback a line
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to the messages below
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)

    def job(cfg: DictConfig) -> None:
        check_types(cfg, config_name)
        task(cfg, Path(HydraConfig.get().runtime.output_dir))

    # Which are others where a launcher has taken a job elsewhere.
    started, script, process = False, os.path.abspath(sys.argv[0]), os.getpid()

    def guarded(cfg: DictConfig) -> float | None:
        nonlocal started
        started = True
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_job(script, cfg, process)
        try:
            job(cfg)
        except Exception as error:
            explained = error if isinstance(error, UserError) else explain_failure(error)
            if explained is None:
                raise
            sys.unraisablehook = lambda _: None  # what is cleaned up now may fail for the same reason, at length
            log.error(f"error: {explained}")
            forget(Path(HydraConfig.get().runtime.output_dir))
            sys.exit(MISTAKE)
        return None

    sys.argv += follower_options(sys.argv)
    sweep = None
    if options := sweep_options(config_name, sys.argv[1:]):
        sys.argv += options
        sweep = sweep_folder(sys.argv[1:])
    try:
        if prepare is not None:
            prepare([] if {"-h", "--help"} & set(sys.argv) else sys.argv[1:])
        with telling_workers(sweep) if sweep else contextlib.nullcontext():
            hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name=config_name)(guarded)()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (HydraException, OmegaConfBaseException, OSError, ValueError, RuntimeError) as error:
        # The last three are mistakes in Hydra's own options, such as hydra.job_logging, or a folder for train.log that
        # takes none, but also bugs in a job.
        explained = None if isinstance(error, UserError) else explain_failure(error)
        if started and explained is None and not isinstance(error, (HydraException, OmegaConfBaseException, UserError)):
            raise
        print(printable(f"error: {explained or explain(error, config_name)}"), file=sys.stderr)
        sys.exit(MISTAKE)
    finally:
        for text in describe_sweep(sweep) if sweep else []:
            print(text, file=sys.stderr)


def forget(folder: Path) -> None:
    """Remove the folder of a run that came to nothing: Hydra's record and a log of the message just printed. One that
    the user named stays."""
    named = any(argument.startswith(("hydra.run.dir=", "hydra.sweep")) for argument in sys.argv)
    if not named and folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # the day's, if there was nothing else


def follower_options(arguments: list[str]) -> list[str]:
    """What a process that torchrun or SLURM started beside the first one gets: its folder is named after its own clock,
    so it must not make it. (Lightning's launcher gives all processes one folder.)"""
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)
    if rank == 0 or any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return []
    return ["hydra.output_subdir=null", "hydra/job_logging=plain"]


def run_folder(ckpt_path: str | None, folder: str) -> str:
    """A new run's folder, or the folder of the run that `ckpt_path` continues.

    `last` continues the newest run of the same model and backbone that left a checkpoint; a path continues the run it
    belongs to, if it belongs to one.
    """
    if ckpt_path == "last":
        suffix = Path(folder).name.split("_", 1)[1]
        runs = Path(folder).parents[1].glob(f"*/*_{suffix}/checkpoints/last.ckpt")
        newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
        return folder if newest is None else str(newest.parents[1])
    owner = Path(ckpt_path).absolute().parents[1] if ckpt_path else None
    if owner is not None and (owner / "config.yaml").is_file():
        return str(owner)
    return folder


def register_checkpoint(arguments: list[str]) -> None:
    """Make model, backbone and data of the `checkpoint=PATH` in the arguments the command's defaults, where the file
    says them.
    """
    given = [argument for argument in arguments if argument.lstrip("+").startswith("checkpoint=")]
    config: dict[str, Any] = {}
    if given:
        from segrefine.checkpoints import read_checkpoint  # which imports torch

        path = OverridesParser.create().parse_override(given[-1]).value()  # quotes and escapes resolved
        config = read_checkpoint(Path(str(path))).config
    for group in ("model", "backbone", "datamodule"):
        node = config.get(group, {"name": None})
        # It was stored resolved. What Hydra would fill in here, such as ${oc.env:...}, is not of a run of ours.
        if not isinstance(node, dict) or "defaults" in node or "${" in repr(node):
            raise UserError(f"{given[-1]}: its {group} options are not plain values, so they are not used: {node}")
        ConfigStore.instance().store(name="from_checkpoint", group=group, node=node)


def check_types(cfg: DictConfig, config_name: str) -> None:
    """UserError for an option given with another type than its default has, such as `trainer.max_epochs=ten`, and for
    one that Hydra was made to add by a plus although nothing takes it."""
    hydra_config = HydraConfig.get()
    groups = set(hydra_config.runtime.choices)
    given = [override.split("=", 1)[0].lstrip("+~") for override in hydra_config.overrides.task]
    chosen = [text for text, key in zip(hydra_config.overrides.task, given, strict=True) if key.split("@")[0] in groups]
    # A file of experiments/ may have written the number 5 for an option that takes 2.5 as well.
    plain = [text for text in chosen if not text.lstrip("+").startswith("experiment")]
    compositions = [hydra.compose(config_name, overrides=words) for words in (chosen, plain)]
    for key in given:
        if key.split("@")[0] not in groups and key.split(".")[0] not in compositions[0]:
            raise UserError(f"There is no option {key!r}.{did_you_mean(key, command_options(config_name))}")
        value = OmegaConf.select(cfg, key, default=None)
        default, without = (OmegaConf.select(config, key, default=None) for config in compositions)
        if key in groups or _fits(value, default) or (without is not None and _fits(value, without)):
            continue
        expected = next(words for kind, words in _TYPES.items() if isinstance(default, kind))
        raise UserError(f"{key}={value} should be a {expected} (the default is {default}).")


def _fits(value: object, default: object) -> bool:
    """Whether an option may have this value, by the type of its default; where that says nothing, it may."""
    free = value is None or not isinstance(default, tuple(_TYPES)) or isinstance(value, ListConfig)
    if free or "auto" in (default, value):
        return True
    fits = isinstance(value, (int, float) if isinstance(default, float) else type(default))
    return fits and isinstance(default, bool) == isinstance(value, bool)


_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "word"}


def explain(error: Exception, config_name: str | None = None) -> str:
    """A config error in one message that names the option and the nearest valid names that the command
    has."""
    text = "\n".join(str(part) for part in (error, error.__cause__) if part)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, value = error.missing_cfg_file.rpartition("/")
        if group.startswith("hydra") and value in PLUGINS:
            return f'{group}={value} needs a package that is not here: pip install -e ".[{PLUGINS[value]}]".'
        while not group.startswith("hydra") and not (CONFIG_FOLDER / group).is_dir():  # experiment=shpes/fcn8s
            group, _, folder = group.rpartition("/")
            value = f"{folder}/{value}"
        files = sorted((CONFIG_FOLDER / group).rglob("*.yaml"))  # experiment=shapes/fcn8s
        names = [path.relative_to(CONFIG_FOLDER / group).with_suffix("").as_posix() for path in files]
        names = names or [*error.options]
        return f"{group} has no value {value!r}.{did_you_mean(value, names)}"
    if isinstance(error, OverrideParseException):
        return f"The option {error.override} cannot be read. Is a quote too many in it, or one missing?"
    unknown = re.search(r"full_key: (\S+)", text) or re.search(r"Could not override '([^']+)'", text)
    if unknown and ("is not in struct" in text or "No match in the defaults list" in text):
        key = unknown.group(1).lstrip("+")
        groups = _groups(config_name)
        group, dot, _ = key.partition(".")
        known = group_options(group) if dot and group in groups else command_options(config_name)
        if dot and key in known:
            return _option_of_another(key, groups[group])
        if key == "experiment":
            return "Experiments are added to the defaults, with a plus: +experiment=NAME."
        return f"There is no option {key!r}.{did_you_mean(key, known)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _option_of_another(key: str, default: str) -> str:
    """A message for an option of the group that its chosen value, or the command's default, lacks."""
    group = key.split(".")[0]
    chosen = [argument.partition("=")[2] for argument in sys.argv if argument.startswith(f"{group}=")]
    value = (chosen or [default])[-1]
    if not (CONFIG_FOLDER / group / f"{value}.yaml").is_file():
        return f"{key} is no option of what was chosen. Give another {group}=NAME, or leave it out."
    options = sorted(read_group(group, value).keys() - {"name", "_target_"})
    message = f"{key} is no option of {group}={value}. Its options: {', '.join(options)}."
    if not chosen and any(argument.startswith("+experiment") for argument in sys.argv):  # Hydra reads swept files later
        message += f" If the swept files of experiments/ choose another {group}, give {group}=NAME as well."
    return message


def _groups(config_name: str | None) -> dict[str, str]:
    """The groups of a command, with the value each has by default."""
    if config_name is None:
        return {"datamodule": "shapes"}
    entries = yaml.safe_load((CONFIG_FOLDER / f"{config_name}.yaml").read_text())["defaults"]
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group: value for group, value in pairs if not group.startswith("override")}


def group_options(group: str) -> set[str]:
    """`group.option` of all its files."""
    files = [yaml.safe_load(file.read_text()) or {} for file in (CONFIG_FOLDER / group).glob("*.yaml")]
    return {f"{group}.{key}" for content in files for key in flatten(content) if not key.startswith("defaults")}


def command_options(config_name: str | None) -> set[str]:
    """The groups of a command and the options of its own."""
    content = yaml.safe_load((CONFIG_FOLDER / f"{config_name}.yaml").read_text()) if config_name else {}
    own = {key for key in flatten(content) if not key.startswith(("hydra", "defaults"))}
    return own | _groups(config_name).keys()
