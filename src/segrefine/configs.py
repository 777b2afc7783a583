"""Where the config files are: `conf/` at the top of the checkout, or its copy inside an installed wheel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from segrefine.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if folder.is_dir()), _PACKAGE / "conf"
)


HARMLESS = {
    *("ckpt_path", "init_from", "strict", "checkpoint_every_minutes", "log_gradients"),
    *("datamodule.root", "datamodule.download", "datamodule.cache", "datamodule.num_workers"),
}
"""Options of a run that may differ when it goes on, without a word: it ends as it would have."""


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key=value (was before)` of the options that bring a run to another end."""
    old = flatten(before)
    return [
        f"{key}={value} (was {old[key]})"
        for key, value in flatten(now).items()
        if key in old and value != old[key] and not isinstance(value, Mapping) and key not in HARMLESS
    ]


def read_group(group: str, name: str) -> dict[str, Any]:
    """The options in `conf/GROUP/NAME.yaml`, over those of the file that its defaults list builds on, as Hydra composes
    them; UserError if there is no such file.
    """
    files = {file.stem: file for file in (CONFIG_FOLDER / group).glob("*.yaml")}
    if name not in files:
        raise UserError(f"There is no {group} {name!r}.{did_you_mean(name, files)}")
    options = yaml.safe_load(files[name].read_text())
    for base in options.pop("defaults", []):
        options = options if base == "_self_" else read_group(group, base) | options
    return options


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a": {"b": 1}, "a.b": 1}`: every entry by its dotted name."""
    entries: dict[str, Any] = {}
    for key, value in mapping.items():
        entries[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            entries |= flatten(value, f"{prefix}{key}.")
    return entries
