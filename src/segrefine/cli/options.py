"""Check the options of the commands: their types, their names, and messages for wrong ones."""

import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from segrefine.core.config import (
    CONFIG_FOLDER,
    EXPERIMENTS,
    experiment_path,
    flatten,
    list_names,
    names_with,
    read_group,
)
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.options import make_options
from segrefine.core.registry import REGISTRIES

EXTRAS = {"optuna": "optuna", "submitit_slurm": "slurm", "submitit_local": "slurm"}
"""Values of Hydra's own groups that need an optional package, and the extra that installs it."""

FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
}
"""Hydra's own."""


def register_plugins() -> None:
    """Add what a user registered to the values of its group, with the options and defaults of its class."""
    for group, registry in REGISTRIES.items():
        for name in sorted(registry.added()):
            ConfigStore.instance().store(name=name, group=group, node=read_group(group, name))


class GivenCheckpoint:
    """The `checkpoint=PATH` of a command, read once. Its model, backbone and data are the command's defaults."""

    checkpoint: Any = None

    def register(self, arguments: list[str]) -> None:
        """Read the file that the arguments name, and store its options where Hydra finds them.

        Raises:
            UserError: the file cannot be read, or its options are not plain values.
        """
        given = [argument for argument in arguments if argument.lstrip("+").startswith("checkpoint=")]
        config: dict[str, Any] = {}
        if given:
            from segrefine.weights.checkpoint import read_checkpoint  # which imports torch

            (override,) = OverridesParser.create().parse_overrides(given[-1:])
            if override.is_sweep_override():
                raise UserError(
                    f"{given[-1]}: a sweep takes one checkpoint, whose options are the command's defaults. Run the "
                    "command once for each."
                )
            self.checkpoint = read_checkpoint(Path(str(override.value())).expanduser())  # quotes and escapes resolved
            config = self.checkpoint.config
        for group in ("model", "backbone", "datamodule"):
            node = config.get(group, {"name": None})
            # It was stored resolved. What Hydra would fill in here, such as ${oc.env:...}, no run wrote.
            if not isinstance(node, dict) or "defaults" in node or "${" in repr(node):
                raise UserError(f"{given[-1]}: its {group} options are not plain values, so they are not used: {node}")
            ConfigStore.instance().store(name="from_checkpoint", group=group, node=node)


def check_options(cfg: DictConfig, options: type) -> None:
    """Raise UserError for an option that is unknown, has the wrong type or is out of range.

    `options` is the dataclass of the command's own. The options of groups are checked where they are used.
    """
    groups = {group.split("/")[0].split("@")[-1] for group in HydraConfig.get().runtime.choices}
    own: Any = {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in groups}  # type: ignore[union-attr]
    known = {field.name for field in fields(options)}
    if removed := _groups(str(HydraConfig.get().job.config_name)).keys() - cfg.keys():
        raise UserError(f"The command needs the group {min(removed)}: leave out ~{min(removed)}.")
    for key in own.keys() - known:  # added with a plus
        raise UserError(f"There is no option {key!r}.{did_you_mean(str(key), known | groups)}")
    make_options(options, own, "The command", "")


def explain(error: Exception, config_name: str) -> str:
    """Return one message for a config error, with the option and the nearest names that the command accepts."""
    text = "\n".join(str(part) for part in (error, error.__cause__) if part)
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, value = error.missing_cfg_file.rpartition("/")
        if group.startswith("hydra") and value in EXTRAS:
            return f'{group}={value} needs a package that is not here: pip install -e ".[{EXTRAS[value]}]".'
        if group.split("/")[0] == "experiment":
            return _no_experiment(f"{group}/{value}".partition("/")[2])
        names = list_names(group) or [*error.options]
        return f"{group} has no value {value!r}.{did_you_mean(value, names)}"
    if isinstance(error, OverrideParseException):
        name, given, _ = str(error.override).partition("=")
        if not given:
            return f"{name} is not an option. Give NAME=VALUE, such as model=fcn8s."
        advice = f"Put a value with ~, =, spaces or quotes in quotes: \"{name}='VALUE'\"."
        return f"{error.override} cannot be read. {advice}"
    if isinstance(error.__cause__, (ConfigAttributeError, ConfigKeyError)):
        key = str(error.__cause__.full_key)
    else:  # a group that the command does not have
        absent = re.match(r"Could not override '([^']+)'.\s+No match in the defaults list", text)
        key = absent[1] if absent else ""
    if key:
        groups = _groups(config_name)
        group, dot, _ = key.partition(".")
        known = group_options(group) if dot and group in groups else command_options(config_name)
        if dot and key in known:
            return _option_of_another(key, groups[group])
        if key == "datamodule.on_error":
            return (
                "datamodule.on_error is gone: a bad file stops the run. To skip bad files, list them with "
                "segrefine data check write_exclude=FILE, then give datamodule.exclude=FILE."
            )
        if key == "experiment":
            return "Experiments are added to the defaults, with a plus: +experiment=NAME."
        inside = [name for other in groups for name in group_options(other) if name.endswith(f".{key.split('.')[-1]}")]
        return f"There is no option {key!r}.{did_you_mean(key, inside or known)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def check_flags(arguments: Sequence[str]) -> None:
    """Raise UserError for an option in the form of other programs, such as `--epochs 3`, before argparse rejects it."""
    for name in (word.partition("=")[0] for word in arguments):
        if name.startswith("--") and name not in FLAGS:
            raise UserError(
                f"There is no {name}. Options have the form NAME=VALUE, without dashes, such as trainer.max_epochs=3. "
                "--help names the main ones."
            )


def _no_experiment(name: str) -> str:
    folder = Path(experiment_path().removeprefix("file://")) / "experiment"
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    if not names:
        return f"There are no experiments in {EXPERIMENTS}/experiment, below this folder, to take {name!r} from."
    return f"experiment has no value {name!r}.{did_you_mean(name, names)}"


def _option_of_another(key: str, default: str) -> str:
    """Return a message for an option that the group has, but not its chosen value or the command's default."""
    group = key.split(".")[0]
    chosen = [argument.partition("=")[2] for argument in sys.argv if argument.startswith(f"{group}=")]
    value = (chosen or [default])[-1]
    if value not in list_names(group):
        return f"{key} is not an option of what was chosen. Give another {group}=NAME, or leave it out."
    options = sorted(read_group(group, value).keys() - {"name", "decoder", "kind"})
    message = f"{key} is not an option of {group}={value}. Its options: {', '.join(options)}."
    if not chosen and any(argument.startswith("+experiment") for argument in sys.argv):  # Hydra reads swept files later
        message += f" If the swept files of experiments/ choose another {group}, give {group}=NAME as well."
    elif others := names_with(group, key.partition(".")[2]):
        message += f" It is one of {group}={', '.join(others)}."
    return message


def _groups(config_name: str) -> dict[str, str]:
    """Return the groups of a command and the default value of each."""
    entries = yaml.safe_load((CONFIG_FOLDER / f"{config_name}.yaml").read_text())["defaults"]
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group: value for group, value in pairs if not group.startswith("override")}


def group_options(group: str) -> set[str]:
    """Return `group.option` for all files of the group, and for what a user registered."""
    contents = [yaml.safe_load(file.read_text()) or {} for file in (CONFIG_FOLDER / group).glob("*.yaml")]
    # A recipe's file sets options of other groups, too.
    contents = [content[group] if isinstance(content.get(group), dict) else content for content in contents]
    if group in REGISTRIES:
        contents += [read_group(group, name) for name in REGISTRIES[group].added()]
    return {f"{group}.{key}" for content in contents for key in flatten(content) if not key.startswith("defaults")}


def command_options(config_name: str) -> set[str]:
    """Return the groups of a command and its own options."""
    content = yaml.safe_load((CONFIG_FOLDER / f"{config_name}.yaml").read_text())
    own = {key for key in flatten(content) if not key.startswith(("hydra", "defaults"))}
    return own | _groups(config_name).keys()
