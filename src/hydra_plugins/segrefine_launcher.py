"""The launcher of segrefine's sweeps on this machine. Hydra finds launchers only in packages of this name."""

import time
from collections.abc import Sequence
from functools import partial

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from segrefine.cli.jobs import Job, Processes, program, start_job
from segrefine.cli.shares import Shares
from segrefine.core.errors import UserError

POLL_SECONDS = 0.1


class LocalLauncher(Launcher):
    """Runs the jobs of a sweep on this machine, `n_jobs` at once (`conf/hydra/launcher/local.yaml`)."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if type(self.n_jobs) is not int or self.n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs={self.n_jobs} should be a whole number, 1 or more.")
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their results. After a signal, start no more of them and raise `Stopped`."""
        shares = Shares(min(self.n_jobs, len(job_overrides)))
        newest: dict[int, Job] = {}  # by the number of their share
        begun = []
        with Processes() as processes:
            for index, overrides in enumerate(job_overrides, initial_job_idx):
                while len(busy := {number for number, job in newest.items() if job.running}) == shares.count:
                    time.sleep(POLL_SECONDS)
                if processes.received:
                    break
                number = min(set(range(shares.count)) - busy)
                start = partial(_start, processes, shares, number)
                begun.append(self._begin(index, overrides, start))
                if begun[-1].status == JobStatus.COMPLETED:
                    newest[number] = begun[-1].return_value
        return [_finish(each) for each in begun]

    def _begin(self, index: int, overrides: Sequence[str], start: TaskFunction) -> JobReturn:
        """Compose the job's config, create its folder and call `start` with the config."""
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = index
        begun = run_job(start, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)  # in place of the job's own
        return begun


def _start(processes: Processes, shares: Shares, number: int, cfg: DictConfig) -> Job:
    return start_job(processes, program(), cfg, shares.share(number, cfg))


def _finish(begun: JobReturn) -> JobReturn:
    """Replace the job by its result. Hydra raises the error of a failed job when all have ended."""
    if begun.status == JobStatus.COMPLETED:
        try:
            begun.return_value = begun.return_value.result()
        except UserError as error:
            begun.status, begun.return_value = JobStatus.FAILED, error
    return begun
