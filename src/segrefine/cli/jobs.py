"""The jobs of a sweep: each is the command of a single run, in a process of its own. One that was stopped goes on, one
that is finished is left alone, and all are told to stop when the sweep is.

Nothing heavy is imported here: the processes of a launcher wait for jobs and do no more.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from segrefine.core.errors import UserError
from segrefine.core.registry import rename_classes
from segrefine.core.signals import STOP_SIGNALS, Stopped
from segrefine.runs.folder import RunFolder
from segrefine.runs.options import changed_options
from segrefine.runs.summary import Summary

log = logging.getLogger(__name__)


def run_job(program: list[str], cfg: DictConfig, sweep: int) -> float | None:
    """Run the current job of the sweep whose process has the id `sweep`: this one, or one that has workers. Returns the
    run's mIoU of val, what a sweeper optimises.

    As a process of its own a job that fails does not stop the others, leaves no memory taken and no process group
    behind, and may start processes for its devices, which get the values that the sweeper drew once (Lightning's
    launcher would repeat the whole sweep in each of them).
    """
    hydra_config = HydraConfig.get()
    folder = RunFolder(Path(hydra_config.runtime.output_dir))
    if folder.finished:
        _refuse_other_options(folder, cfg)
        log.info(f"finished before: {folder.path}")
        return _objective(folder)
    run_dir = f"hydra.run.dir={_quoted(str(folder.path))}"
    command = [sys.executable, *program, *hydra_config.overrides.task, run_dir]
    if folder.last.is_file() and not _given(command, "ckpt_path"):
        command.append("ckpt_path=last")
    sweep_folder = Path(hydra_config.sweep.dir).absolute()
    if OmegaConf.select(cfg, "logger.wandb") is not None:
        names = {"group": sweep_folder.name, "name": folder.path.name}
        command += [
            f"logger.wandb.{key}={_quoted(name)}"
            for key, name in names.items()
            if not _given(command, f"logger.wandb.{key}")
        ]
    log.info(f"job {hydra_config.job.num}: {folder.path}")
    if "joblib" in hydra_config.launcher._target_ and os.getpid() != sweep:
        with some_gpus(sweep_folder, cfg) as environment:
            status = run_while_asked_for(command, environment, sweep, sweep_folder)
    else:
        status = run_passing_signals(command)
    if status != 0:  # kept by Hydra until all jobs have run
        raise UserError(f"a job of the sweep ended with status {status}: {folder.path}")
    return _objective(folder)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _given(command: list[str], key: str) -> bool:
    return any(option.startswith(f"{key}=") for option in command)


def _refuse_other_options(folder: RunFolder, cfg: DictConfig) -> None:
    """UserError if the finished run of this folder had other options than it would have now: files have changed."""
    before: Any = rename_classes(yaml.safe_load(folder.config.read_text())) if folder.config.is_file() else {}
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    for config in (before, now):
        config.pop("logger", None)
    if changed := changed_options(before, now):
        raise UserError(
            f"{folder.path} was finished with other options: {', '.join(changed)}. Remove it, or give the sweep "
            "another folder with hydra.sweep.dir=FOLDER."
        )


def _objective(folder: RunFolder) -> float | None:
    return Summary.read(folder.summary).val_mIoU if folder.finished else None


def run_passing_signals(command: list[str]) -> int:
    """The command's exit status. What asks this process to stop is passed on to it, so that it can save first; then
    this process ends the same way, or as whoever listened before (submitit) wants."""
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        if number != signal.SIGINT:  # which a terminal sends to all processes
            process.send_signal(number)

    process = subprocess.Popen(command)
    if threading.current_thread() is not threading.main_thread():  # of a launcher of threads, where no signal arrives
        return process.wait()
    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        handler = before[received[0]]
        if callable(handler) and received[0] != signal.SIGINT:
            handler(received[0], None)
        raise Stopped(received[0])
    return status


def stop_file(folder: Path, sweep: int) -> Path:
    """What tells the workers of a sweep that it was asked to stop."""
    return folder / f".stop_{sweep}"


def run_while_asked_for(command: list[str], environment: dict[str, str], sweep: int, folder: Path) -> int:
    """The command's exit status, in a worker of the sweep. When the sweep was asked to stop, or was killed, the command
    is asked to stop too, and jobs that the worker gets afterwards are not begun."""

    def asked_for() -> bool:
        return os.getppid() == sweep and not stop_file(folder, sweep).exists()

    if not asked_for():
        raise UserError("not begun, since the sweep was stopped")
    # A terminal or a scheduler may tell all processes. This one waits for the command's end all the same, and for more
    # afterwards: were it to die, joblib would kill what the others run.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    process = subprocess.Popen(command, env=os.environ | environment)
    while process.poll() is None:
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            if not asked_for():
                process.terminate()
                process.wait()
    if os.getppid() != sweep:
        os._exit(0)  # there is nobody to tell, and more jobs may be waiting in the pipe
    return process.returncode


@contextmanager
def telling_workers(folder: Path) -> Iterator[None]:
    """While a launcher's workers run the jobs of the sweep in `folder`, what asks this process to stop is told to them,
    and it ends when they have ended; a second Ctrl-C ends all at once."""
    received: list[int] = []
    file = stop_file(folder, os.getpid())
    file.unlink(missing_ok=True)  # of a process of this number before

    def note(number: int, frame: Any) -> None:
        again = number == signal.SIGINT and number in received
        received.append(number)
        if again or not multiprocessing.active_children():
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)
        file.touch()
        log.warning(f"{signal.Signals(number).name}: stopping when the jobs have saved (Ctrl-C twice: at once).")

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        file.unlink(missing_ok=True)
        if received:
            raise Stopped(received[0])


@contextmanager
def some_gpus(folder: Path, cfg: DictConfig) -> Iterator[dict[str, str]]:
    """Environment of a job beside which others run: of several GPUs it sees as many as it asks for, which no other job
    of the sweep in `folder` has, as long as there are such."""
    devices = OmegaConf.select(cfg, "trainer.devices")
    count = devices if isinstance(devices, int) and devices > 0 else 1
    gpus = visible_gpus()
    shares = [gpus[first : first + count] for first in range(0, len(gpus) - count + 1, count)]
    if len(shares) < 2:
        yield {}
        return
    for number in itertools.count():
        lock = FileLock(folder / f".job_{number}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        with lock:
            yield {"CUDA_VISIBLE_DEVICES": ",".join(shares[number % len(shares)])}
        lock.release()
        return


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would find, asked of the environment and the driver: torch would take memory on them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]
