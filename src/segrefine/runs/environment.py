"""Describe the environment of a run: versions, device and git commit."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from segrefine.core.config import CHECKOUT

PACKAGES = (
    *("segrefine", "torch", "torchvision", "lightning", "torchmetrics"),
    *("hydra-core", "omegaconf", "wandb", "numpy", "pillow"),
)


def describe_environment() -> str:
    """Return versions, device and git commit, one a line."""
    command = [os.path.relpath(sys.argv[0] or "python"), *sys.argv[1:]]  # `python -m` makes the first one absolute
    lines = [f"python {platform.python_version()} on {platform.platform()}", f"command {shlex.join(command)}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} not installed")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    capabilities = torch.backends.cpu.get_cpu_capability()
    lines.append(f"cpu {_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {capabilities}")
    lines.append(f"gpu {', '.join(devices) or 'none'}")
    return "\n".join([*lines, f"git {_git_commit()}"]) + "\n"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_commit() -> str:
    if not (CHECKOUT / ".git").exists():  # git would take the repository around an environment
        return "unknown"
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
