"""Shares of this machine for jobs that run at the same time."""

import os
import subprocess
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segrefine.core.machine import available_cores


class Shares:
    """`count` equal shares of the cores and GPUs. With fewer cores or GPUs than shares some have the same ones."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._cores = available_cores()
        self._gpus = visible_gpus() if count > 1 else []

    def cores(self, share: int) -> list[int]:
        """Return the CPU cores of a share."""
        size = max(len(self._cores) // self.count, 1)
        first = share * size % len(self._cores)
        return self._cores[first : first + size]

    def environment(self, share: int, cfg: DictConfig) -> dict[str, str]:
        """Return what the environment of a job has in addition: a thread for each core, and the GPUs that it sees, as
        many as `trainer.devices` says (auto: one)."""
        if self.count == 1:
            return {}
        threads = os.environ.get("OMP_NUM_THREADS") or str(len(self.cores(share)))
        devices: Any = OmegaConf.select(cfg, "trainer.devices")
        size = devices if isinstance(devices, int) and devices > 0 else 1
        groups = [self._gpus[first : first + size] for first in range(0, len(self._gpus) - size + 1, size)]
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(groups[share % len(groups)])} if len(groups) > 1 else {}
        return {"OMP_NUM_THREADS": threads} | gpus


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA would find, by the environment and the driver: torch would take memory on them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]
