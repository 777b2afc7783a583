"""Logging to Weights & Biases, which never prompts and never ends a training."""

import contextlib
import logging
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from segrefine.io.atomic import write_text
from segrefine.runs.folder import RunFolder
from segrefine.runs.wandb import KEPT, KEPT_BELOW, choose_mode, one_line, quiet_settings, sync_command

log = logging.getLogger(__name__)


class LenientWandbLogger(WandbLogger):
    """A W&B logger that never ends a training: its first error becomes a warning and stops the logging to W&B."""

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        self.lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(super().log_metrics, metrics, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **options: Any) -> None:
        self._attempt(super().log_image, key, images, step, **options)

    def log_hyperparams(self, params: Any) -> None:
        self._attempt(super().log_hyperparams, params)

    def keep_files(self, folder: RunFolder) -> None:
        """Give the W&B run copies of what `KEPT` names."""
        self._attempt(self._keep_files, folder)

    def _keep_files(self, folder: RunFolder) -> None:
        run: Any = self.experiment
        below = Path(run.dir) / KEPT_BELOW
        below.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (folder.path / name).is_file():
                shutil.copyfile(folder.path / name, below / name)  # to which W&B links: the run's file may go away
                run.save(str(below / name), base_path=run.dir, policy="now", glob=False)

    def _attempt(self, call: Callable[..., None], *arguments: Any, **options: Any) -> None:
        if self.lost:
            return
        try:
            call(*arguments, **options)
        except Exception as error:  # whatever the service or its client does, training continues
            self.lost = True
            log.warning(
                f"W&B failed ({one_line(error)}), so the run continues without it. {_how_to_upload(self.experiment)}"
            )


def start_wandb(options: dict[str, Any], folder: RunFolder, config: dict[str, Any]) -> Any:
    """Start a W&B run: online with a key, offline without one or if there is no answer. Return None if that fails too.

    It never prompts and never ends the training. WANDB_MODE is respected, except online without a key: W&B would ask.
    """
    try:
        import wandb
    except ImportError:
        log.warning("W&B is not installed, so the run is logged without it (pip install wandb, or logger=csv).")
        return None
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # W&B's own statistics, which need not arrive
    id_file = folder.wandb_id  # so that a resumed run continues the same W&B run
    identity = (id_file.read_text().strip() if id_file.is_file() else "") or secrets.token_hex(4)
    for mode in dict.fromkeys((choose_mode(), "offline")):
        try:
            place: dict[str, Any] = {"dir": folder.path, "id": identity, "resume": "allow"}
            run = wandb.init(config=config, mode=mode, settings=quiet_settings(), **place, **options)
            run.define_metric("trainer/global_step")  # as Lightning does for runs that it starts itself
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        except Exception as error:  # whatever the service or its client does, training continues
            log.warning(f"W&B could not start ({mode}): {one_line(error)}")
            _stop_service()  # which takes the id for one in use
            continue
        write_text(id_file, identity + "\n")
        if mode in ("offline", "dryrun"):
            log.info(f"W&B is offline. {_how_to_upload(run)}")
        return run
    return None


def finish_wandb(succeeded: bool) -> None:
    """End the live W&B run, if any; else the next run of the process would log into it."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    run = wandb.run
    try:
        run.finish(exit_code=0 if succeeded else 1)
        if not run.offline and run.url:
            log.info(f"W&B: {run.url} (should it lack anything: {sync_command(run)})")
    except Exception as error:
        log.warning(f"W&B could not finish ({one_line(error)}). {_how_to_upload(run)}")
        _stop_service()


def _stop_service() -> None:
    """End W&B's own process, also where it is gone already, of which W&B would complain as Python exits."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def _how_to_upload(run: Any) -> str:
    return f"What it was given is on disk; to upload it: {sync_command(run)}"
