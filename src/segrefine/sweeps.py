"""Sweeps that go on: the same command gives the same folder, in which finished runs are skipped and others resumed.

Nothing heavy is imported here, since the command line needs it at once.
"""

import hashlib
import json
import logging
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from segrefine.configs import changed_options
from segrefine.errors import UserError
from segrefine.stopping import STOP_SIGNALS, Stopped

log = logging.getLogger(__name__)

NAME_LENGTH = 80
"""Of a sweep's folder, less the digest; file systems take 255."""


def slug(text: str) -> str:
    """`text` as a folder's name that needs no quotes on a command line: `model=fcn8s,fcn4s` -> `model-fcn8s+fcn4s`."""
    words = re.sub(r"[^A-Za-z0-9_.+]+", "-", text.replace(",", "+")).strip("-+._")
    words = re.sub(r"[-+._]*_[-+._]*", "_", words)
    if len(words) <= NAME_LENGTH:
        return words or "run"
    return f"{words[:NAME_LENGTH]}_{hashlib.sha1(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("slug", slug, replace=True)  # here: a launcher's processes import this, not `main`


def sweep_options(command: str, arguments: list[str]) -> list[str]:
    """What is added to the command line of a sweep: a folder named after all that was asked for, so that the same
    command finds it again, and what every run of it has in common left out of the runs' names."""
    if not {"-m", "--multirun"} & set(arguments):
        return []
    words = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException:
        return []  # which Hydra is about to say
    # The same runs by another launcher are the same sweep.
    asked = sorted(
        str(override.input_line)
        for override in overrides
        if not re.match("hydra[./]launcher", override.key_or_group) and override.key_or_group != "hydra.sweep.dir"
    )
    constant = [
        override.key_or_group
        for override in overrides
        if not override.is_sweep_override() and not override.key_or_group.startswith("hydra")
    ]
    options = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]"]
    if not any(override.key_or_group == "hydra.sweep.dir" for override in overrides):
        swept = [str(override.input_line) for override in overrides if override.is_sweep_override()]
        digest = hashlib.sha1("\n".join([command, *asked]).encode()).hexdigest()[:8]
        name = slug("_".join([*([command] if command != "train" else []), *sorted(swept)]))
        options.append(f"hydra.sweep.dir=multirun/{name}_{digest}")
    return options


def run_job(script: str, cfg: DictConfig) -> float | None:
    """Run the sweep's current job as a single command, in a process of its own; one that was stopped goes on from its
    checkpoint, one that is finished is left alone. Returns its mIoU of val, what a sweeper optimises.

    So a job that fails does not stop the others, leaves no memory taken and no process group behind, and may start
    processes for its devices, which get the values that the sweeper drew once (Lightning's launcher would repeat the
    whole sweep in each of them).
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if (folder / "summary.json").is_file():
        _refuse_other_options(folder, cfg)
        log.info(f"finished before: {folder}")
        return _objective(folder)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, script, *hydra_config.overrides.task, f"hydra.run.dir='{quoted}'"]
    if (folder / "checkpoints" / "last.ckpt").is_file() and not _given(command, "ckpt_path"):
        command.append("ckpt_path=last")
    if OmegaConf.select(cfg, "logger.wandb") is not None:
        names = {"group": Path(hydra_config.sweep.dir).name, "name": folder.name}
        command += [
            f"logger.wandb.{key}='{name}'" for key, name in names.items() if not _given(command, f"logger.wandb.{key}")
        ]
    log.info(f"job {hydra_config.job.num}: {folder}")
    status = run_passing_signals(command)
    if status != 0:  # kept by Hydra until all jobs have run
        raise UserError(f"a job of the sweep ended with status {status}: {folder}")
    return _objective(folder)


def _given(command: list[str], key: str) -> bool:
    return any(option.startswith(f"{key}=") for option in command)


def _refuse_other_options(folder: Path, cfg: DictConfig) -> None:
    """UserError if the finished run of this folder had other options than it would have now: files have changed."""
    file = folder / "config.yaml"
    before: Any = yaml.safe_load(file.read_text()) if file.is_file() else {}
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    for config in (before, now):
        config.pop("logger", None)
    if changed := changed_options(before, now):
        raise UserError(
            f"{folder} was finished with other options: {', '.join(changed)}. Remove it, or give the sweep another "
            "folder with hydra.sweep.dir=FOLDER."
        )


def _objective(folder: Path) -> float | None:
    summary = folder / "summary.json"
    return json.loads(summary.read_text()).get("val_mIoU") if summary.is_file() else None


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


def describe_sweep(arguments: list[str]) -> list[str]:
    """What came of a sweep so far, and the commands that follow from it."""
    folder = Path(next(word for word in arguments if word.startswith("hydra.sweep.dir=")).partition("=")[2])
    runs = sorted(path.parent for path in folder.glob("*/.hydra"))
    unfinished = [run.name for run in runs if not (run / "summary.json").is_file()]
    lines = [f"{len(runs) - len(unfinished)} of {len(runs)} runs in {folder} are finished"] if runs else []
    if unfinished:
        lines.append(f"the same command goes on with {', '.join(unfinished)}")
    if len(unfinished) < len(runs):
        lines.append(f"to compare: python compare.py runs={shlex.quote(f'{folder}/*')} output=DIR")
    if any(folder.glob("*/wandb/offline-run-*")):
        lines.append(f"to upload to W&B: wandb sync {folder}/*/wandb/offline-run-*")
    return lines
