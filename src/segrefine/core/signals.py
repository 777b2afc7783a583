"""Handle requests to stop: a scheduler that takes the machine back (SIGTERM, SIGUSR1, SIGUSR2) or Ctrl-C (SIGINT)."""

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)

REQUEUE = 75
"""Exit status of a run that a scheduler stopped. Start it again to resume it (EX_TEMPFAIL of BSD's sysexits.h)."""

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""SLURM sends SIGTERM, or SIGUSR1 if sbatch was given --signal=USR1@SECONDS. submitit sends SIGUSR2."""

GRACE = 2.0
"""Seconds that the main thread has to handle a signal before training begins."""


class Stopped(SystemExit):
    """The exit that a signal asks for, with status REQUEUE, or 130 after Ctrl-C as shells expect."""

    def __init__(self, number: int, rank: int = 0) -> None:
        # Of the processes of a run the first speaks for all; Lightning kills the others where one of them fails.
        self.status = 0 if rank else 130 if number == signal.SIGINT else REQUEUE
        super().__init__(self.status)


class StopRequest:
    """Records signals that ask the run to stop, within a `with` block.

    While `patient` is true, a signal is only noted in `received`. That is the case as long as a caller checks it at
    every step. Otherwise, and at a second Ctrl-C, the signal ends the run at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.patient = False
        self._before: dict[int, Any] = {}
        self._watched: int | None = None
        self._wakeup_before = -1

    def listen(self) -> None:
        """Install the signal handlers, again when training begins: Lightning has installed its own by then."""
        self._end_watch()
        if threading.current_thread() is threading.main_thread():  # no other thread may
            for number in STOP_SIGNALS:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._note)

    def __enter__(self) -> "StopRequest":
        self.listen()
        if threading.current_thread() is threading.main_thread():
            numbers, self._watched = os.pipe()
            os.set_blocking(self._watched, False)
            self._wakeup_before = signal.set_wakeup_fd(self._watched, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(numbers,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end_watch()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _watch(self, numbers: int) -> None:
        """End the process if the main thread does not handle a signal before training begins.

        The main thread cannot handle signals while it waits in C code, as PyTorch does for other nodes. Python still
        writes the `numbers` of signals to this pipe.
        """
        with open(numbers, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] not in STOP_SIGNALS:
                    continue
                time.sleep(GRACE)
                if self._watched is not None and not self.received:
                    log.warning(f"{signal.Signals(number[0]).name}: stopping at once.")
                    os._exit(Stopped(number[0]).status)

    def _end_watch(self) -> None:
        if self._watched is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._watched)
            self._watched = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received == number == signal.SIGINT
        self.received = number
        name = signal.Signals(number).name
        if again or not self.patient:
            log.warning(f"{name}: stopping at once.")
            raise Stopped(number)
        more = " (Ctrl-C again: at once)" if number == signal.SIGINT else ""
        log.warning(f"{name}: stopping after this step{more}.")
