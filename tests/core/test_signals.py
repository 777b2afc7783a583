"""Signals that ask to stop, within one process and from a sweep to its job."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from segrefine.cli.jobs import Processes
from segrefine.core.signals import REQUEUE, STOP_SIGNALS, Stopped, StopRequest

# A job that tells the one that started it to stop, and ends when it is told so itself.
JOB = """
import os, signal, sys, time
signal.signal(int(sys.argv[1]), lambda *_: (open("saved", "w").close(), os._exit(75)))
os.kill(os.getppid(), int(sys.argv[1]))
time.sleep(20)
"""


def run(*arguments: str) -> int:
    with Processes() as processes:
        return processes.start([sys.executable, "-c", *arguments]).wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_sweep_passes_on_what_asks_it_to_stop_and_waits(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with pytest.raises(Stopped) as stopped:
        run(JOB, str(int(number)))
    assert stopped.value.code == REQUEUE == 75
    assert (tmp_path / "saved").exists()
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_who_listened_before_is_told_after_the_job_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As submitit does, which then requeues the job."""
    monkeypatch.chdir(tmp_path)
    told: list[bool] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: told.append((tmp_path / "saved").exists()))
    try:
        with pytest.raises(Stopped):
            run(JOB, str(int(signal.SIGUSR2)))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert told == [True]


def test_a_job_that_is_left_alone_gives_its_status() -> None:
    assert run("raise SystemExit(3)") == 3


def test_an_error_in_the_sweep_leaves_no_job_behind() -> None:
    with suppress(OSError), Processes() as processes:
        process = processes.start([sys.executable, "-c", "import time; time.sleep(0.2)"])
        raise OSError("disk full")
    assert process.returncode == 0


def test_a_signal_is_noted_while_somebody_looks_and_ends_the_run_otherwise() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        stop.patient = False
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stopped.value.code == REQUEUE
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with StopRequest() as stop:
        stop.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 130


def test_other_processes_of_a_run_end_without_a_status() -> None:
    """Lightning and torchrun kill all where one fails, and the first may still be writing."""
    assert Stopped(signal.SIGTERM, rank=1).code == 0
