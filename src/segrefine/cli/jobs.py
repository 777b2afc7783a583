"""Run the jobs of a sweep, each as the command of a single run in its own process.

Finished runs are skipped and interrupted ones resumed. A signal that stops the sweep reaches all of them.
"""

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from segrefine.core.errors import UserError
from segrefine.core.signals import STOP_SIGNALS, Stopped
from segrefine.runs.folder import RunFolder
from segrefine.runs.options import changed_options, read_config
from segrefine.runs.summary import Summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """The part of this machine that a job gets: CPU cores (an empty list for any), and changes to its environment."""

    cores: list[int] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


WHOLE_MACHINE = Share()


class Processes:
    """The processes of jobs.

    Within the block, signals that ask this process to stop are passed on to them. The block ends when all of them have
    ended. It raises `Stopped` if there was a signal. A second Ctrl-C kills them.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._started: list[subprocess.Popen] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Processes":
        self._before = {number: signal.signal(number, self._pass_on) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received:
            handler = self._before[self.received[0]]
            if callable(handler) and self.received[0] != signal.SIGINT:
                handler(self.received[0], None)  # submitit's queues the job again
            raise Stopped(self.received[0])

    def start(self, command: list[str], share: Share = WHOLE_MACHINE) -> subprocess.Popen:
        process = subprocess.Popen(command, env=os.environ | share.environment)
        self._started.append(process)
        if self.received:  # while the process started
            process.terminate()
        if share.cores:
            with suppress(AttributeError, OSError):  # not every system can
                os.sched_setaffinity(process.pid, share.cores)
        return process

    def _pass_on(self, number: int, frame: object) -> None:
        again = number == signal.SIGINT and number in self.received
        self.received.append(number)
        log.warning(f"{signal.Signals(number).name}: stopping when the jobs have saved (Ctrl-C twice: at once).")
        for process in self._started:
            if again:
                process.kill()
            elif number != signal.SIGINT:  # which a terminal sends to all processes
                process.send_signal(number)


@dataclass(frozen=True)
class Job:
    """A run of the sweep and its process, or None if it had already finished."""

    folder: RunFolder
    process: subprocess.Popen | None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def result(self) -> float | None:
        """Wait for the end and return the run's validation mIoU, for a search. Raise UserError if the job failed."""
        if self.process and (status := self.process.wait()):
            raise UserError(f"a job of the sweep ended with status {status}: {self.folder.path}")
        return Summary.read(self.folder.summary).val_mIoU if self.folder.finished else None


def program() -> list[str]:
    """Return the arguments with which Python starts this command: a module or a script."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]


def run_job(arguments: list[str], cfg: DictConfig) -> float | None:
    """Run the current job of the sweep and return its result. `arguments` are those of `program`."""
    with Processes() as processes:
        return start_job(processes, arguments, cfg).result()


def start_job(processes: Processes, arguments: list[str], cfg: DictConfig, share: Share = WHOLE_MACHINE) -> Job:
    """Start the current job of the sweep, unless its run has finished.

    In its own process, a job that fails does not stop the others and frees all its memory. It can also start further
    processes for its devices with the values that the sweeper drew once. (Lightning would repeat the whole sweep in
    each.)

    Raises:
        UserError: the run has finished with other options.
    """
    hydra_config = HydraConfig.get()
    folder = RunFolder(Path(hydra_config.runtime.output_dir))
    if folder.finished:
        _refuse_other_options(folder, cfg)
        log.info(f"finished before: {folder.path}")
        return Job(folder, None)
    given = [*hydra_config.overrides.task, f"hydra.run.dir={_quoted(str(folder.path))}"]
    added = {"ckpt_path": "last"} if folder.last.is_file() else {}
    if OmegaConf.select(cfg, "logger.wandb") is not None:
        added["logger.wandb.group"] = _quoted(Path(hydra_config.sweep.dir).absolute().name)
        added["logger.wandb.name"] = _quoted(folder.path.name)
    given += [f"{key}={value}" for key, value in added.items() if not any(word.startswith(f"{key}=") for word in given)]
    log.info(f"job {hydra_config.job.num}: {folder.path}")
    return Job(folder, processes.start([sys.executable, *arguments, *given], share))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _refuse_other_options(folder: RunFolder, cfg: DictConfig) -> None:
    """Raise UserError if the finished run of this folder had other options, because files have changed since."""
    before: Any = read_config(folder.config) if folder.config.is_file() else {}
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    if changed := changed_options(before | {"logger": None}, now | {"logger": None}):
        raise UserError(
            f"{folder.path} was finished with other options: {', '.join(changed)}. Remove it, or give the sweep "
            "another folder with hydra.sweep.dir=FOLDER."
        )
