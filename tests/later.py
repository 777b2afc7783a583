"""Jobs of a sweep that run in this process, after the sweep: a new process takes seconds to import everything."""

from pathlib import Path

import pytest
from conftest import run_typed

from segrefine.cli.jobs import Processes, Share


class Later:
    """Stands in for the process of a job."""

    def __init__(self, command: list[str], share: Share) -> None:
        self.words = command[1:]  # after the interpreter
        waiting.append(self)

    def wait(self) -> int:
        return 0

    poll = wait


waiting: list[Later] = []


def put_off(patch: pytest.MonkeyPatch) -> None:
    """Jobs of the sweeps to come wait for `run_waiting`."""
    waiting.clear()
    patch.setattr(Processes, "start", Later)


def run_waiting(folder: Path) -> list[int]:
    """The exit status of each job, run now as if typed in `folder`."""
    jobs = [job.words[1:] if job.words[0] == "-m" else job.words for job in waiting]
    waiting.clear()
    return [run_typed(folder, *words) for words in jobs]
