"""Fetch finished runs from Weights & Biases, as folders that `segrefine.runs.read` reads."""

import logging
import netrc
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from segrefine.core.errors import UserError, listing
from segrefine.runs.folder import RunFolder

log = logging.getLogger(__name__)

NEEDED = (RunFolder.PER_IMAGE, RunFolder.CONFIG, RunFolder.SUMMARY)

KEPT = (*NEEDED, RunFolder.METRICS)
"""Files of a run's folder that its W&B run also keeps. `download_runs` restores a folder from them."""

KEPT_BELOW = "run"
"""The folder of these files in the W&B run. Outside it W&B writes a config.yaml of its own."""

START_TIMEOUT = 30.0
"""Seconds that W&B has to answer at the start."""

FINISH_TIMEOUT = 60.0
"""Seconds that it has at the end to take what is not uploaded yet; the rest stays on disk."""

T = TypeVar("T")


def download_runs(path: str, folder: Path, group: str | None = None) -> list[Path]:
    """Download every finished run of a W&B project to `folder/RUN_ID`, unless it is already there.

    Runs that keep no files, such as those of other programs, are skipped with a warning.

    Args:
        path: the W&B project, ENTITY/PROJECT.
        folder: where the runs go.
        group: download only one group of the project, such as a sweep.

    Returns:
        The folders of the runs.

    Raises:
        UserError: there is no key, or W&B is unreachable or has no such project or no finished runs.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", path):
        raise UserError(f"{path!r} should be ENTITY/PROJECT, as in the address of the project's page.")
    if not has_wandb_key():
        raise UserError("W&B needs an API key to download runs. Run wandb login, or set WANDB_API_KEY.")
    filters = {"state": "finished"} | ({"group": group} if group else {})
    runs = _asked(path, lambda: list(_api().runs(path, filters=filters)))
    if not runs:
        raise UserError(f"W&B has no finished run in {path}{f' of group {group}' if group else ''}.")
    folders, without = [], []
    for run in runs:
        if not re.fullmatch(r"[\w-]+", run.id):  # it becomes a folder's name
            raise UserError(f"W&B names a run of {path} {run.id!r}, which is not an id.")
        if RunFolder(folder / run.id).finished or _fetch(run, path, folder / run.id):
            folders.append(folder / run.id)
        else:
            without.append(f"{run.name} ({run.id})")
    if without:
        log.warning(f"skipped, since W&B has no {', '.join(NEEDED)} of them: {listing(without)}")
    return folders


def _api() -> Any:
    import wandb

    return wandb.Api(timeout=30)


def _asked(path: str, question: Callable[[], T]) -> T:
    """Return the answer to a question to W&B, or raise UserError in one line."""
    try:
        return question()
    except Exception as error:  # the client raises whatever its libraries do
        words = one_line(error)
        if "Could not find project" in words:
            raise UserError(f"W&B has no project {path}, or your key has no access to it.") from error
        raise UserError(f"W&B did not list the runs of {path}: {words}") from error


def _fetch(run: Any, path: str, folder: Path) -> bool:
    """Download the files of a run to `folder`, the summary last. Return False if the run keeps none."""
    wanted = [f"{KEPT_BELOW}/{name}" for name in KEPT]
    files = {file.name: file for file in _asked(path, lambda: list(run.files(wanted)))}
    if not {f"{KEPT_BELOW}/{name}" for name in NEEDED} <= files.keys():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part") as part:
        for name in sorted(KEPT, key=RunFolder.SUMMARY.__eq__):
            if file := files.get(f"{KEPT_BELOW}/{name}"):
                _asked(path, partial(file.download, root=part, replace=True)).close()
                os.replace(Path(part) / KEPT_BELOW / name, folder / name)
    return True


def log_report(folder: Path, tables: Mapping[str, Any], project: str) -> None:
    """Log a comparison as a W&B run of the job type `comparison`: offline without a key, with a warning if W&B fails.

    Args:
        folder: its plots, PNG files, are logged, and offline data is kept below it.
        tables: DataFrames of text by name.
        project: PROJECT or ENTITY/PROJECT.
    """
    import wandb

    *entity, name = project.split("/")
    place: dict[str, Any] = {"entity": entity[0] if entity else None, "project": name, "dir": folder}
    try:
        with wandb.init(job_type="comparison", mode=choose_mode(), settings=quiet_settings(), **place) as run:
            run.log({f"tables/{title}": wandb.Table(dataframe=table) for title, table in tables.items()})
            run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))})
        log.info(f"W&B is offline. To upload: {sync_command(run)}" if run.offline else f"W&B: {run.url}")
    except Exception as error:  # whatever the service or its client does, the report is written
        log.warning(f"W&B did not take the report ({one_line(error)}).")


def choose_mode() -> Any:
    """Return what WANDB_MODE says, else online; offline in place of online without a key, for which W&B would ask."""
    wanted = os.environ.get("WANDB_MODE") or "online"
    return wanted if wanted in ("offline", "dryrun", "disabled") or has_wandb_key() else "offline"


def quiet_settings() -> Any:
    """Return settings under which W&B prints nothing and does not keep a program waiting."""
    import wandb

    return wandb.Settings(
        init_timeout=START_TIMEOUT,
        finish_timeout=FINISH_TIMEOUT,
        finish_timeout_raises=True,
        console="off",
        silent=True,
    )


def sync_command(run: Any) -> str:
    """Return the command that uploads what the run left on disk, also for online runs."""
    return f"wandb sync {shlex.quote(str(Path(run.dir).parent))}"


def one_line(error: Exception) -> str:
    """Return an error of W&B's in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def has_wandb_key() -> bool:
    """Return whether `wandb login` was run or WANDB_API_KEY is set. Checks only the environment and netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / name for name in (".netrc", "_netrc")]:
        try:
            if path.is_file() and host in netrc.netrc(path).hosts:
                return True
        except (netrc.NetrcParseError, OSError):
            log.warning(f"{path} cannot be read, so W&B stays offline.")
    return False
