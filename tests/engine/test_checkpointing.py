"""Which checkpoint is written when, by the scores of the validations."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segrefine.core.signals import StopRequest
from segrefine.engine.callbacks import checkpoint
from segrefine.engine.callbacks.checkpoint import MONITOR, Checkpointing
from segrefine.runs.folder import RunFolder

NEW_BEST = ["save best", "keep the last", "best is the last"]
"""The earlier last checkpoint gets its second name before it is replaced."""


@pytest.mark.parametrize(
    ("scores", "written", "best"),
    [
        ([0.2, 0.5, 0.3, 0.5], [*NEW_BEST, *NEW_BEST, "save last", "save last"], 0.5),
        ([0.4, 0.3], [*NEW_BEST, "save last"], 0.4),
        ([math.nan, 0.1], [*NEW_BEST, *NEW_BEST], 0.1),  # the first is the best, even without a score
        ([0.1, math.nan], [*NEW_BEST, "save last"], 0.1),
    ],
)
def test_a_higher_score_makes_a_new_best(
    scores: list[float], written: list[str], best: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(checkpoint, "_save", lambda _, path: done.append(f"save {path.stem}"))
    monkeypatch.setattr(checkpoint, "keep_previous", lambda path: done.append(f"keep the {path.stem}"))
    monkeypatch.setattr(checkpoint, "link", lambda path, name: done.append(f"{path.stem} is the {name.stem}"))
    checkpointing = Checkpointing(RunFolder(tmp_path), None, StopRequest(), {})
    trainer: Any = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(barrier=lambda *_: None))
    for score in scores:
        trainer.callback_metrics = {MONITOR: score}
        checkpointing.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert done == written
    assert checkpointing.best_score == best
