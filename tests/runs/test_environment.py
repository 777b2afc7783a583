"""What a run notes of the environment it ran in."""

import shlex
import subprocess
from pathlib import Path

import pytest

from segrefine.runs import environment


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["train.py", "tta.scales=[0.5, 1]", "labels={a b: 'c'}", ""]
    monkeypatch.setattr("sys.argv", given)
    (line,) = (line for line in environment.describe_environment().splitlines() if line.startswith("command "))
    assert shlex.split(line)[1:] == given


def test_the_commit_is_ours_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a repository around the environment that segrefine is installed in."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    (tmp_path / "venv").mkdir()
    for folder, expected in ((tmp_path, commit), (tmp_path / "venv", "unknown")):
        monkeypatch.setattr(environment, "CHECKOUT", folder)
        assert environment.describe_environment().splitlines()[-1] == f"git {expected}"
