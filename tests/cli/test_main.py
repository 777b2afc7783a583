"""The one command: it names its commands, hands over to them, and completes what is typed."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import TypeIn

from segrefine.cli.main import COMMANDS

WORDS = ["train", "evaluate", "predict", "compare", "export", "benchmark", "data"]


def test_help_names_every_command(type_in: TypeIn) -> None:
    assert list(COMMANDS) == WORDS
    for arguments in ([], ["--help"], ["-h"]):
        result = type_in("segrefine", *arguments)
        assert result.returncode == 0
        assert all(f"\n  {name} " in result.stdout for name in WORDS)


def test_the_version_is_the_packages(type_in: TypeIn) -> None:
    assert type_in("segrefine", "--version").stdout == f"segrefine {version('segrefine')}\n"


MISTYPED = {
    "train": ("modl=fcn8s", "There is no option 'modl'. Did you mean 'model'?"),
    "evaluate": ("splt=val", "There is no option 'splt'. Did you mean 'split'?"),
    "predict": ("inptu=a.png", "There is no option 'inptu'. Did you mean 'input'?"),
    "compare": ("baselin=a", "There is no option 'baselin'. Did you mean 'baseline'?"),
    "export": ("formt=onnx", "There is no option 'formt'. Did you mean 'format'?"),
    "benchmark": ("round=1", "There is no option 'round'. Did you mean 'rounds'?"),
    "data": ("chek", "command=chek should be check or show or null. Did you mean 'check'?"),
}


@pytest.mark.parametrize("command", WORDS)
def test_a_command_is_handed_its_arguments(command: str, type_in: TypeIn) -> None:
    argument, message = MISTYPED[command]
    result = type_in("segrefine", command, argument)
    assert result.returncode == 2
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "There is no command 'trian'. Did you mean 'train'?"),
        (["model=fcn8s"], "There is no command 'model=fcn8s'."),
        (["--completion"], "--completion takes the name of a shell: bash or zsh."),
        (["--completion", "fish"], "--completion takes the name of a shell: bash or zsh."),
    ],
)
def test_mistakes_get_one_message(arguments: list[str], message: str, type_in: TypeIn) -> None:
    result = type_in("segrefine", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """As bash asks: the words so far, and which of them is being typed."""
    (tmp_path / "segrefine").write_text(f'#!/bin/sh\nexec {sys.executable} -m segrefine "$@"\n')
    (tmp_path / "segrefine").chmod(0o755)
    script = """
        PATH=$PWD:$PATH; eval "$(segrefine --completion bash)"
        complete_() { COMP_LINE="$*" COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _segrefine; echo "${COMPREPLY[@]}"; }
        complete_ segrefine ev
        complete_ segrefine data ch
        complete_ segrefine train model=refinenet_l
    """
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split() for line in result.stdout.splitlines()] == [["evaluate"], ["check"], ["model=refinenet_lw"]]
