"""Finished runs fetched from Weights & Biases, as folders that `segrefine.comparison.runs` reads."""

import logging
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from segrefine.errors import UserError, listing
from segrefine.loggers import KEPT, KEPT_BELOW, has_wandb_key

log = logging.getLogger(__name__)

NEEDED = ("per_image.csv", "config.yaml", "summary.json")

T = TypeVar("T")


def download_runs(path: str, folder: Path, group: str | None = None) -> list[Path]:
    """`folder/RUN_ID` of every finished run of the W&B project `path`, ENTITY/PROJECT, or of one group there, such as a
    sweep; fetched where it is not there yet.

    Runs that keep no files, which others may have logged, are named in a warning and left out. UserError where W&B
    cannot be asked or has no such project.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", path):
        raise UserError(f"{path!r} should be ENTITY/PROJECT, as in the address of the project's page.")
    if not has_wandb_key():
        raise UserError("W&B gives runs to those with a key alone: wandb login, or set WANDB_API_KEY.")
    filters = {"state": "finished"} | ({"group": group} if group else {})
    runs = _asked(path, lambda: list(_api().runs(path, filters=filters)))
    if not runs:
        raise UserError(f"W&B has no finished run in {path}{f' of group {group}' if group else ''}.")
    folders, without = [], []
    for run in runs:
        if not re.fullmatch(r"[\w-]+", run.id):  # it becomes a folder's name
            raise UserError(f"W&B names a run of {path} {run.id!r}, which is no id.")
        if (folder / run.id / "summary.json").is_file() or _fetch(run, path, folder / run.id):
            folders.append(folder / run.id)
        else:
            without.append(f"{run.name} ({run.id})")
    if without:
        log.warning(f"without {', '.join(NEEDED)} at W&B, so left out: {listing(without)}")
    return folders


def _api() -> Any:
    import wandb

    return wandb.Api(timeout=30)


def _asked(path: str, question: Callable[[], T]) -> T:
    """The answer to a question to W&B, or UserError in one line."""
    try:
        return question()
    except Exception as error:  # the client raises whatever its libraries do
        words = " ".join(str(error).split())
        if "Could not find project" in words:
            raise UserError(f"W&B has no project {path}, or none that your key may see.") from error
        raise UserError(f"W&B could not be asked for the runs of {path}: {type(error).__name__}: {words}") from error


def _fetch(run: Any, path: str, folder: Path) -> bool:
    """Whether the run keeps its files. `folder` then has them, summary.json last: if that is there, all are."""
    wanted = [f"{KEPT_BELOW}/{name}" for name in KEPT]
    files = {file.name: file for file in _asked(path, lambda: list(run.files(wanted)))}
    if not {f"{KEPT_BELOW}/{name}" for name in NEEDED} <= files.keys():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part") as part:
        for name in sorted(KEPT, key=NEEDED[-1].__eq__):
            if file := files.get(f"{KEPT_BELOW}/{name}"):
                _asked(path, partial(file.download, root=part, replace=True)).close()
                os.replace(Path(part) / KEPT_BELOW / name, folder / name)
    return True
