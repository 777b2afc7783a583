"""Read the options of runs. Define which of them affect the result, and which tell variants apart."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from segrefine.core.config import flatten
from segrefine.core.errors import UserError
from segrefine.core.registry import rename_classes

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, but missing where PyYAML lacks libyaml

HARMLESS = {
    *("ckpt_path", "checkpoint_every_minutes", "log_gradients", "log_dead_units"),
    *("datamodule.root", "datamodule.download", "datamodule.cache", "datamodule.num_workers"),
    "datamodule.sequence_pattern",
}
"""Options that may change without notice: they do not affect the result."""

AT_THE_START = {"init_from", "strict", "model.init"}
"""Options that do not affect how a run resumes, which starts from its checkpoint."""

NO_DIFFERENCE = HARMLESS | {
    *("seed", "checkpoint", "logger", "submission", "save_predictions", "split"),
    *("datamodule.eval_batch_size", "hydra"),
}
"""Options that do not make a different variant."""

PLAIN_INFERENCE = {"tta": {"scales": [1.0], "flip": False}, "window": None, "post": None}
"""How training scores. An evaluation has these options in its config."""

FOLD_OPTIONS = ("fold", "folds", "fold_gap")
"""Options of the group `datamodule` by which runs of one data set have other images."""

FORMERLY: dict[str, Any] = {
    **{"model.context": False, "model.crf": False, "model.norm": False, "model.coarse_units": 0},
    **{"model.init": "default", "model.input_scale": 1.0, "model.input_scales": [], "model.upsample": "corners"},
    **{"backbone.frozen_stages": 0, "backbone.classifier_channels": 4096},
    **{"recipe.progressive_resizing": 0.0, "recipe.loss_at": "pixels", "datamodule.in_channels": 3},
}
"""What was in effect before an option existed: None, unless it is here."""

WHOLE = ("recipe.loss", "datamodule.label_map", "model.skip_scales", "model.widths")
"""Options that are one value even where this is a mapping."""


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a run, with names for the class paths of older versions. Raise UserError if that fails."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _YAML)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it holds no named values.")
    return rename_classes(content)


def flatten_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a config by its dotted name, without the groups and mappings that hold them."""
    entries = flatten(config)
    whole = [key for key in WHOLE if isinstance(entries.get(key), Mapping)]
    inside = tuple(f"{key}." for key in whole)
    return {
        key: value
        for key, value in entries.items()
        if key in whole or not (isinstance(value, Mapping) or key.startswith(inside))
    }


def changed_options(
    before: Mapping[str, Any], now: Mapping[str, Any], harmless: Collection[str] = HARMLESS
) -> list[str]:
    """Return `key=value (was before)` for each option that changed and affects the result.

    An option that only one of them has is of another version, but in the group `trainer`, where users add some.
    """
    old, new, added = flatten_options(before), flatten_options(now), "trainer" in before and "trainer" in now
    keys = [key for key in {**new, **old} if (key in new and key in old) or (added and key.startswith("trainer."))]
    return [
        f"{key}={new.get(key)} (was {old.get(key)})"
        for key in keys
        if new.get(key) != old.get(key) and key not in harmless
    ]
