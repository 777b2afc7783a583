"""summary.json is read back as it was written; files from before it had a version are read, others refused by name."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from segrefine.core.errors import UserError
from segrefine.runs.options import changed_options
from segrefine.runs.summary import SCHEMA_VERSION, Summary

LEAST: dict[str, Any] = {"model": "fcn8s", "backbone": "resnet18", "datamodule": "shapes", "split": "val", "seed": 3}
LEAST |= {"params": 11, "flops": 7, "mIoU": 0.25}


def written(folder: Path, content: object) -> Path:
    (folder / "summary.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "summary.json"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    summary = Summary(**LEAST, per_class={"a": 0.5, "b": None}, window=[64, 48], skipped_steps=2)
    summary.write(tmp_path / "new/summary.json")
    assert Summary.read(tmp_path / "new/summary.json") == summary
    assert json.loads((tmp_path / "new/summary.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_a_file_without_a_version_or_with_more_entries_is_read(tmp_path: Path) -> None:
    """`left_out` is of older versions."""
    assert Summary.read(written(tmp_path, LEAST | {"note": "by hand", "left_out": [{"id": "x"}]})) == Summary(**LEAST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LEAST | {"schema_version": SCHEMA_VERSION + 1},
            f"has schema_version {SCHEMA_VERSION + 1}; this",
        ),
        (LEAST | {"schema_version": "new"}, "has schema_version new"),
        ({key: value for key, value in LEAST.items() if key != "mIoU"}, "lacks mIoU: is it of another version"),
        ("{", "is broken"),
        ([1], "is broken: it holds no named values"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Summary.read(written(tmp_path, content))
    assert "summary.json" in str(caught.value)


def test_numbers_that_json_has_not_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Summary(**LEAST | {"mIoU": float("nan")}).write(tmp_path / "summary.json")
    assert not list(tmp_path.iterdir())


def test_a_mapping_that_changed_is_one_option() -> None:
    maps = None, {0: 0, 255: 1}, {0: 0, 255: 1, 128: 1}
    for before, now in permutations(maps, 2):
        found = changed_options({"datamodule": {"label_map": before}}, {"datamodule": {"label_map": now}})
        assert found == [f"datamodule.label_map={now} (was {before})"]


@pytest.mark.parametrize("before", [None, 0, False, 0.5, "a", []])
def test_an_option_that_changed_is_named_whatever_it_was(before: object) -> None:
    assert changed_options({"recipe": {"clip_norm": before}}, {"recipe": {"clip_norm": before}}) == []
    changed = changed_options({"recipe": {"clip_norm": before}}, {"recipe": {"clip_norm": 1.0}})
    assert changed == [f"recipe.clip_norm=1.0 (was {before})"]
    assert changed_options({}, {"recipe": {"clip_norm": 1.0}}) == []  # an option that older versions had not
    plain = {"trainer": {"max_epochs": 5}}
    added = {"trainer": {"max_epochs": 5, "val_check_interval": 50}}
    assert changed_options(plain, added) == ["trainer.val_check_interval=50 (was None)"]
    assert changed_options({"ckpt_path": before}, {"ckpt_path": "x"}) == []  # it ends as it would have
