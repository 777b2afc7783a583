"""Files are whole or not there."""

import os
from pathlib import Path

import pytest

from segrefine.io.atomic import replacing, write_text


def test_a_file_gets_its_name_when_its_content_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append("sync") or sync(number))
    monkeypatch.setattr(os, "replace", lambda one, other: done.append("rename") or replace(one, other))
    write_text(tmp_path / "new/file.txt", "words")
    assert done == ["sync", "rename"]
    assert (tmp_path / "new/file.txt").read_text() == "words"


def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with replacing(tmp_path / "file.txt") as part:
            part.write_text("half")
            raise RuntimeError

    write_text(tmp_path / "file.txt", "before")
    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "before"
