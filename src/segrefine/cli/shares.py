"""Divide this machine among jobs that run at the same time."""

import os
import subprocess
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from segrefine.cli.jobs import WHOLE_MACHINE, Share
from segrefine.core.machine import available_cores


class Shares:
    """`count` equal shares of the cores and GPUs. If there are fewer cores or GPUs than shares, some shares overlap."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._cores = available_cores()
        self._gpus = visible_gpus() if count > 1 else []

    def share(self, number: int, cfg: DictConfig) -> Share:
        """Return a share for a job: a thread for each core, and `trainer.devices` GPUs (auto means one).

        A list of GPUs is left as it is.
        """
        if self.count == 1:
            return WHOLE_MACHINE
        size = max(len(self._cores) // self.count, 1)
        first = number * size % len(self._cores)
        threads = os.environ.get("OMP_NUM_THREADS") or str(size)
        devices: Any = OmegaConf.select(cfg, "trainer.devices")
        wanted = devices if isinstance(devices, int) and devices > 0 else 1
        free = [] if isinstance(devices, ListConfig) else self._gpus
        groups = [free[start : start + wanted] for start in range(0, len(free) - wanted + 1, wanted)]
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(groups[number % len(groups)])} if len(groups) > 1 else {}
        return Share(self._cores[first : first + size], {"OMP_NUM_THREADS": threads} | gpus)


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA would find, by environment and driver: asking torch would allocate memory on them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]
