"""Run a command: Hydra with readable help, one clear message for a user's mistake, and the run's folder."""

import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segrefine.cli.failures import explain_failure
from segrefine.cli.jobs import program, run_job
from segrefine.cli.options import check_flags, check_options, explain, register_plugins
from segrefine.cli.sweeps import add_overrides, describe_sweep, sweep_folder, sweep_options
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.core.text import printable
from segrefine.runs.folder import RunFolder, owner

log = logging.getLogger(__name__)

# For tensors of 2 MiB and more PyTorch then asks Linux for huge pages: on a CPU, a quarter of a training step over
# VGG's fc6 goes to page faults otherwise (docs/performance.md). torch reads this when it first allocates memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler of `segrefine benchmark` otherwise reports a missing GPU

MISTAKE = 2
"""Exit status after a user's mistake, or after a failure of the machine that a user can fix."""

WITH_FOLDER = {"train", "evaluate"}
"""Commands that write a run's folder."""

Task = Callable[[DictConfig, Path], Any]
Prepare = Callable[[list[str]], None]


def run_command(name: str, task: Task, options: type, prepare: Prepare | None = None) -> None:
    """Compose `conf/NAME.yaml` with the command line and call `task(cfg, folder)`.

    Each job of a sweep is the same command in its own process (see `segrefine.cli.jobs`). After a user's mistake or a
    failure of the machine it prints one message and exits with status 2.

    Args:
        name: of the command.
        task: receives the config and the folder for the job's output.
        options: the dataclass of the command's own options.
        prepare: receives the arguments, or none if they ask for help, before anything is composed.
    """
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, costs no traceback a line
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to the messages below
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
    sys.argv[1:] = add_overrides(sys.argv[1:], sweep_options(name, sys.argv[1:]))
    sweep = sweep_folder(sys.argv[1:])
    job = _Job(task, options)
    try:
        check_flags(sys.argv[1:])
        check_folder(name, sys.argv[1:])
        register_plugins()
        if prepare is not None:
            prepare([] if {"-h", "--help"} & set(sys.argv) else sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name=name)(job)()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever reads the output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (HydraException, OmegaConfBaseException, OSError, ValueError, RuntimeError) as error:
        # The last three are mistakes in Hydra's own options, such as a log's folder that takes none, but also bugs.
        explained = explain_failure(error)
        if job.started and explained is None and not isinstance(error, (HydraException, OmegaConfBaseException)):
            raise
        print(printable(f"error: {explained or explain(error, name)}"), file=sys.stderr)
        sys.exit(MISTAKE)
    finally:
        for text in describe_sweep(sweep) if sweep else []:
            print(text, file=sys.stderr)


class _Job:
    """The function that Hydra calls: the task or, in a sweep with another launcher than ours, its process."""

    def __init__(self, task: Task, options: type) -> None:
        self.task, self.options, self.started = task, options, False
        self.program = program()  # submitit calls the job from another one

    def __call__(self, cfg: DictConfig) -> float | None:
        self.started = True
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_job(self.program, cfg)
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            check_options(cfg, self.options)
            self.task(cfg, folder)
        except Exception as error:
            if (explained := explain_failure(error)) is None:
                raise
            sys.unraisablehook = lambda _: None  # what is cleaned up now may fail for the same reason, at length
            log.error(f"error: {explained}")
            forget(folder)
            sys.exit(MISTAKE)
        return None


def forget(folder: Path) -> None:
    """Remove the folder of a run that produced nothing but a log of the message printed, unless the user named it."""
    sweeps = any(word.startswith("hydra.sweep") for word in sys.argv)
    if not sweeps and named_path(sys.argv, "hydra.run.dir") is None and RunFolder(folder).abandoned:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # the day's, if there was nothing else


def named_path(arguments: list[str], option: str) -> Path | None:
    """Return the path that the command line gives for an option, if it does."""
    found = [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]
    return Path(found[-1].strip("'\"")) if found else None


def check_folder(command: str, arguments: list[str]) -> None:
    """Check the folder that the command line gives a run, before Hydra writes its record there.

    Raises:
        UserError: It holds a training run that `ckpt_path` does not resume. Or torchrun or SLURM started several
            processes and there is none, so that each would name its own after the clock. (Lightning's launcher gives
            all one.)
    """
    folder, resumed = named_path(arguments, "hydra.run.dir"), named_path(arguments, "ckpt_path")
    words = {word.partition("=")[0] for word in arguments}
    if command not in WITH_FOLDER or words & {"-h", "--help", "-c", "--cfg", "-m", "--multirun"}:
        return
    started = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if folder is None and started > 1:
        raise UserError(f"Give the {started} processes of this run one folder: hydra.run.dir=FOLDER.")
    if folder is not None and resumed != Path("last"):
        RunFolder(folder).check_free(resumed and resumed.expanduser())


def run_folder(ckpt_path: str | None, folder: str) -> str:
    """Return a new run's folder, or the folder of the run that `ckpt_path` continues.

    `last` continues the newest run of the same model and backbone with a checkpoint. A path continues the run that it
    belongs to, if any.
    """
    if ckpt_path == "last":
        suffix = Path(folder).name.split("_", 1)[1]
        runs = Path(folder).parents[1].glob(f"*/??-??-??_{suffix}/{RunFolder.LAST}")
        newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
        return folder if newest is None else str(newest.parents[1])
    continued = owner(Path(ckpt_path).expanduser()) if ckpt_path else None
    return folder if continued is None else str(continued.path)
