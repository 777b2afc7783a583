"""Find and read the config files in `conf/`, and collect the options of registered classes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.options import defaults
from segrefine.core.registry import REGISTRIES

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "conf"

CHECKOUT = Path(__file__).resolve().parents[3]

EXPERIMENTS = Path("experiments/configs")
"""The folder of experiment files, in the checkout or, for an installed package, in the working directory."""


def experiment_path() -> str:
    """Return the entry of Hydra's search path that holds the group `experiment`.

    Without experiments it is the package's own configs, since Hydra warns about an entry that does not exist.
    """
    folders = (CHECKOUT / EXPERIMENTS, EXPERIMENTS.absolute())
    return next((f"file://{folder}" for folder in folders if folder.is_dir()), "pkg://segrefine.conf")


OmegaConf.register_new_resolver("experiment_path", experiment_path, replace=True)


def list_names(group: str) -> list[str]:
    """Return the values of a config group: its files and, for models and data modules, the registered names.

    Raises:
        UserError: a user registered a name that the package already has.
    """
    files = {file.stem for file in (CONFIG_FOLDER / group).glob("*.yaml")}
    added = REGISTRIES[group].added() if group in REGISTRIES else set()
    if taken := files & added:
        raise UserError(f"{group}={min(taken)} exists already. Register yours under another name.")
    return sorted(files | added)


def list_models() -> list[str]:
    """Return the names that `create_model` accepts."""
    return list_names("model")


def list_backbones() -> list[str]:
    """Return the names of the encoders."""
    return list_names("backbone")


def list_datasets() -> list[str]:
    """Return the names of the data sets."""
    return list_names("datamodule")


def read_group(group: str, name: str) -> dict[str, Any]:
    """Return the options of one value of a config group, as Hydra composes them.

    Args:
        group: `model`, `backbone`, `datamodule`, ...
        name: a file of `conf/GROUP`, or the name under which a user registered a class.

    Raises:
        UserError: There is no such value.
    """
    file = CONFIG_FOLDER / group / f"{name}.yaml"
    if name not in list_names(group):
        raise UserError(f"There is no {group} {name!r}.{did_you_mean(name, list_names(group))}")
    if not file.is_file():
        return registered_options(group, name)
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    for base in options.pop("defaults", []):
        options = options if base == "_self_" else read_group(group, base) | options
    return options


def names_with(group: str, option: str) -> list[str]:
    """Return the values of a config group that have an option."""
    return [name for name in list_names(group) if option in read_group(group, name)]


def registered_options(group: str, name: str) -> dict[str, Any]:
    """Return the options of a class that a user registered, with their defaults, in the form of a file of the group.

    Raises:
        UserError: the class has no dataclass `Options`.
    """
    registry = REGISTRIES[group]
    kind = registry.find(name)
    if not is_dataclass(getattr(kind, "Options", None)):
        raise UserError(
            f"{group}={name}: {kind.__qualname__} has no dataclass of Options, as every {registry.title} has."
        )
    values = dict.fromkeys((field.name for field in fields(kind.Options)), "???") | defaults(kind.Options)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {**plain, "name": name, registry.key: name}


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return every entry by its dotted name: `{"a": {"b": 1}}` becomes `{"a": {"b": 1}, "a.b": 1}`."""
    entries: dict[str, Any] = {}
    for key, value in mapping.items():
        entries[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            entries |= flatten(value, f"{prefix}{key}.")
    return entries
