"""Define which options of runs affect the result, and which tell variants apart."""

from collections.abc import Mapping
from typing import Any

from segrefine.core.config import flatten

HARMLESS = {
    *("ckpt_path", "init_from", "strict", "checkpoint_every_minutes", "log_gradients", "log_dead_units"),
    *("datamodule.root", "datamodule.download", "datamodule.cache", "datamodule.num_workers"),
    *("datamodule.sequence_pattern", "model.init"),
}
"""Options that may change without notice when a run resumes: they do not affect the result."""

NO_DIFFERENCE = (HARMLESS - {"init_from", "strict", "model.init"}) | {
    *("seed", "checkpoint", "logger", "submission", "save_predictions", "split"),
    *("datamodule.eval_batch_size", "hydra"),
}
"""Options that do not make a different variant."""

PLAIN_INFERENCE = {"tta": {"scales": [1.0], "flip": False}, "window": None, "post": None}
"""How training scores. An evaluation has these options in its config."""


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return `key=value (was before)` for each option that changed and affects the result."""
    old = flatten(before)
    return [
        f"{key}={value} (was {old[key]})"
        for key, value in flatten(now).items()
        if key in old and value != old[key] and not isinstance(value, Mapping) and key not in HARMLESS
    ]
