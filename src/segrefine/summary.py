"""What a run leaves behind in words and numbers: summary.json, per_image.csv, environment.txt."""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segrefine.atomic import replacing, write_text
from segrefine.metrics import IMAGE_COUNTS

PACKAGES = (
    "segrefine",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "wandb",
    "numpy",
    "pillow",
)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """`folder/summary.json`; numbers that are not finite become null."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")


def write_per_image(folder: Path, ids: Sequence[str], counts: np.ndarray, classes: Sequence[str]) -> None:
    """`folder/per_image.csv`: a row per image, its id and its counts `COUNT:CLASS`, from (N, len(IMAGE_COUNTS), K).

    Rows add up, so any score of any subset follows from them (`segrefine.metrics.scores_from_counts`).
    """
    # File names that are not UTF-8 keep their bytes.
    options: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with replacing(folder / "per_image.csv") as part, part.open("w", **options) as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{count}:{name}" for count in IMAGE_COUNTS for name in classes)])
        writer.writerows([image, *row.flatten().tolist()] for image, row in zip(ids, counts, strict=True))


def fingerprint(net: nn.Module) -> str:
    """16 hexadecimal digits that two networks share only if their weights are the same (the first of a SHA-256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def describe_environment() -> str:
    """Versions, device and git commit, one a line."""
    command = [os.path.relpath(sys.argv[0] or "python"), *sys.argv[1:]]  # `python -m` makes the first one absolute
    lines = [f"python {platform.python_version()} on {platform.platform()}", f"command {' '.join(command)}"]
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
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
