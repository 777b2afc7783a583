"""Asked to stop: by a scheduler that takes the machine back (SIGTERM, SIGUSR1, SIGUSR2) or by Ctrl-C (SIGINT)."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)

REQUEUE = 75
"""Exit status of a run that a scheduler stopped: start it again and it goes on (EX_TEMPFAIL of BSD's sysexits.h)."""

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""SLURM sends SIGTERM, or SIGUSR1 where sbatch was given --signal=USR1@SECONDS; submitit sends SIGUSR2."""


class Stopped(SystemExit):
    """Ends the process as its signal asks: with status REQUEUE, or 130 after Ctrl-C as shells expect."""

    def __init__(self, number: int, rank: int = 0) -> None:
        # Of the processes of a run the first speaks for all; Lightning kills the others where one of them fails.
        super().__init__(0 if rank else 130 if number == signal.SIGINT else REQUEUE)
        self.number = number


class StopRequest:
    """Within its block, signals that ask the run to stop are noted in `received` while it is `patient`, which it is as
    long as somebody looks at every step; else, and at a second Ctrl-C, they end the run at once."""

    def __init__(self) -> None:
        self.received = 0
        self.patient = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # no other thread may
            for number in STOP_SIGNALS:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._note)

    def __enter__(self) -> "StopRequest":
        self.listen()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received == number == signal.SIGINT
        self.received = number
        name = signal.Signals(number).name
        if again or not self.patient:
            log.warning(f"{name}: stopping at once.")
            raise Stopped(number)
        more = " (Ctrl-C again: at once)" if number == signal.SIGINT else ""
        log.warning(f"{name}: stopping after this step{more}.")
