"""W&B never asks, never stops a run; the environment decides whether it is online."""

import json
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from omegaconf import OmegaConf
from wandb.proto.wandb_internal_pb2 import Record

import segrefine.runs.wandb
from segrefine.engine.loggers import create_loggers
from segrefine.engine.loggers import wandb as ours
from segrefine.engine.loggers.csv import MetricsCSV
from segrefine.engine.loggers.wandb import LenientWandbLogger, finish_wandb
from segrefine.runs.folder import RunFolder
from segrefine.runs.wandb import KEPT, has_wandb_key

OPTIONS: dict[str, Any] = {
    "csv": True,
    "tensorboard": False,
    "wandb": {"project": "test", "entity": None, "group": None, "name": None},
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def modes(monkeypatch: pytest.MonkeyPatch, refuse: tuple[str, ...] = ()) -> list[str]:
    """Stands in for wandb.init: keeps the modes it is asked for and fails in those of `refuse`."""
    asked: list[str] = []

    class Run:
        dir = "wandb/offline-run/files"

        def define_metric(self, *names: str, **options: Any) -> None: ...

    def init(mode: str, **options: Any) -> Run:
        asked.append(mode)
        if mode in refuse:
            raise wandb.errors.CommError("no such host")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(ours, "LenientWandbLogger", lambda run: run)
    return asked


def test_without_a_key_wandb_is_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = modes(monkeypatch)
    loggers = create_loggers(OPTIONS, RunFolder(tmp_path), {})
    assert asked == ["offline"]
    assert isinstance(loggers[0], MetricsCSV)
    assert len(loggers) == 2


def test_with_a_key_it_is_online_and_offline_where_the_service_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    asked = modes(monkeypatch, refuse=("online",))
    assert len(create_loggers(OPTIONS, RunFolder(tmp_path), {})) == 2
    assert asked == ["online", "offline"]


def test_training_goes_on_where_even_offline_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modes(monkeypatch, refuse=("offline",))
    assert len(create_loggers(OPTIONS, RunFolder(tmp_path), {})) == 1


def test_wandb_mode_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    asked = modes(monkeypatch)
    create_loggers(OPTIONS, RunFolder(tmp_path), {})
    assert asked == ["disabled"]


def test_a_resumed_run_keeps_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modes(monkeypatch)
    create_loggers(OPTIONS, RunFolder(tmp_path), {})
    first = (tmp_path / "wandb_run_id.txt").read_text()
    create_loggers(OPTIONS, RunFolder(tmp_path), {})
    assert (tmp_path / "wandb_run_id.txt").read_text() == first


def test_a_key_is_found_in_netrc(tmp_path: Path) -> None:
    assert not has_wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert has_wandb_key()


def test_a_real_offline_run_leaves_its_folder(tmp_path: Path) -> None:
    loggers = create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 0})
    loggers[1].log_metrics({"val/mIoU": 0.5}, step=1)
    finish_wandb(True)
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert wandb.run is None


def test_a_runs_files_are_kept_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As copies: the run's own are replaced later, and W&B writes to a config.yaml of its own."""
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 0})[1]
    contents = {name: f"{name} of the run" for name in KEPT if name != "metrics.csv"}  # which logger=wandb has not
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    logger.keep_files(RunFolder(tmp_path))  # type: ignore[attr-defined]
    for name in contents:
        (tmp_path / name).write_text("another")
    finish_wandb(True)
    path = transactions(tmp_path, "offline-run")
    kept = path.parent / "files/run"
    assert {file.name: file.read_text() for file in kept.iterdir()} == contents
    assert not any(file.is_symlink() for file in kept.parent.rglob("*"))
    assert stored(path)["files"] >= len(contents)
    assert "W&B failed" not in caplog.text


def test_files_that_cannot_be_kept_cost_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {})[1]
    (tmp_path / "summary.json").touch()

    def save(*arguments: Any, **options: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(logger.experiment, "save", save)
    logger.keep_files(RunFolder(tmp_path))  # type: ignore[attr-defined]
    finish_wandb(True)
    assert caplog.text.count("W&B failed (OSError: no space)") == 1


def test_what_was_typed_is_in_the_config_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["model=fcn32s", "seed=3", "ckpt_path=last", "logger.wandb.group='a'", "logger=wandb", "recipe.lr=0.1"]
    hydra = OmegaConf.create({"hydra": {"overrides": {"task": words}}})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra.hydra)
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 3})[1]
    config = dict(logger.experiment.config)
    finish_wandb(True)
    assert config == {"seed": 3, "overrides": ["model=fcn32s", "seed=3", "recipe.lr=0.1"]}


def test_two_runs_of_one_process_are_two_runs_for_wandb(tmp_path: Path) -> None:
    identities = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        loggers = create_loggers(OPTIONS, RunFolder(tmp_path / name), {})
        identities.append(loggers[1].experiment.id)
        finish_wandb(True)
    assert identities[0] != identities[1]
    assert all(list((tmp_path / name / "wandb").glob("offline-run-*")) for name in ("first", "second"))


class Service(ThreadingHTTPServer):
    """Stands in for W&B's server: takes whatever comes, until `status` says what it answers in place of 200; None is
    no answer."""

    daemon_threads = True
    status: int | None = 200


class Handler(BaseHTTPRequestHandler):
    server: Service

    def answer(self) -> None:
        query = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.status is None:
            time.sleep(600)
        data: dict[str, Any] = {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}, "model": None}
        if b"upsertBucket" in query:
            name = json.loads(query)["variables"]["name"]
            place = {"name": "test", "entity": {"name": "me"}}
            data["upsertBucket"] = {"bucket": {"id": "1", "name": name, "project": place, "historyLineCount": 0}}
        content = json.dumps({"data": data} if self.server.status == 200 else {"errors": [{"message": "no"}]}).encode()
        self.send_response(self.server.status or 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A server that W&B takes for its own, with a key for it, and seconds in place of minutes to wait for it."""
    monkeypatch.setattr(segrefine.runs.wandb, "START_TIMEOUT", 2.0)
    monkeypatch.setattr(segrefine.runs.wandb, "FINISH_TIMEOUT", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with Service(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
    wandb.teardown()


def stored(path: Path) -> Counter:
    """The kinds of records in a .wandb file, which is a LevelDB log after 7 bytes: blocks of 32 KiB, in which parts of
    records follow a checksum, their length and whether they are all, first, middle or last of one."""
    content, place, record, kinds = path.read_bytes(), 7, b"", Counter()
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # no room for another part in this block
            place += 2**15 - place % 2**15
            continue
        _, length, part = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):
            kinds[Record.FromString(record).WhichOneof("record_type")] += 1
            record = b""
    return kinds


def transactions(folder: Path, kind: str) -> Path:
    """The file of the folder's only W&B run, offline or not, as the end of the program leaves it."""
    wandb.teardown()
    (path,) = (folder / "wandb").glob(f"{kind}-*/run-*.wandb")
    return path


def fit(logger: LenientWandbLogger, folder: Path) -> Trainer:
    """Four steps of training, logged."""

    class Model(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train/loss", 0.5)
            return super().training_step(batch, batch_idx)

    trainer = Trainer(
        max_steps=4,
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(Model())
    return trainer


@pytest.mark.parametrize(  # each waits for seconds; 500 is for the next test
    "status", [None, *(pytest.param(status, marks=pytest.mark.slow) for status in (401, "refused"))]
)
def test_a_service_that_is_not_there_costs_seconds_and_no_data(
    status: int | str | None, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if status == "refused":
        service.server_close()
    else:
        service.status = status  # type: ignore[assignment]
    caplog.set_level(logging.INFO, "segrefine")
    started = time.perf_counter()
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 0})[1]
    assert time.perf_counter() - started < 20  # 2 to be refused, the others for W&B's own process to end and start
    for step in range(5):
        logger.log_metrics({"val/mIoU": 0.5}, step=step)
    finish_wandb(True)
    path = transactions(tmp_path, "offline-run")
    assert stored(path)["history"] == 5
    assert [record.message for record in caplog.records if "wandb sync" in record.message] == [
        f"W&B is offline. What it was given is on disk; to upload it: wandb sync {path.parent}"
    ]
    assert caplog.text.count("W&B could not start (online)") == 1
    assert (tmp_path / "wandb_run_id.txt").read_text().strip() in path.name  # resumed, it goes on in the same run


@pytest.mark.parametrize("status", [pytest.param(None, marks=pytest.mark.slow), 500])
def test_a_service_that_leaves_in_the_middle_costs_no_data(
    status: int | None, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "segrefine")
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 0})[1]
    logger.log_metrics({"val/mIoU": 0.5}, step=0)
    service.status = status
    assert fit(logger, tmp_path).global_step == 4  # type: ignore[arg-type]
    started = time.perf_counter()
    finish_wandb(True)
    assert time.perf_counter() - started < 20
    assert wandb.run is None
    path = transactions(tmp_path, "run")
    assert stored(path)["history"] == 5
    assert caplog.text.count(f"wandb sync {path.parent}") == 1


def test_a_run_online_says_where_it_is(service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segrefine")
    create_loggers(OPTIONS, RunFolder(tmp_path), {"seed": 0})[1].log_metrics({"val/mIoU": 0.5}, step=0)
    finish_wandb(True)
    path, url = transactions(tmp_path, "run"), f"http://127.0.0.1:{service.server_port}/me/test/runs/"
    (message,) = [record.message for record in caplog.records if record.name.startswith("segrefine")]
    assert message.startswith(f"W&B: {url}")
    assert message.endswith(f"wandb sync {path.parent})")
    assert stored(path)["history"] == 1


def test_training_goes_on_where_the_clients_process_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {})[1]
    command = ["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"]
    for pid in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.5)
    assert fit(logger, tmp_path).global_step == 4  # type: ignore[arg-type]
    logger.log_image("val/panel", [np.zeros((8, 8, 3), np.uint8)])  # type: ignore[attr-defined]
    finish_wandb(True)
    assert caplog.text.count("W&B failed") == 1
    assert f"wandb sync {transactions(tmp_path, 'offline-run').parent}" in caplog.text
    again = create_loggers(OPTIONS, RunFolder(tmp_path / "again"), {})[1]  # the next run of the process is as any other
    again.log_metrics({"val/mIoU": 0.5}, step=0)
    finish_wandb(True)
    assert stored(transactions(tmp_path / "again", "offline-run"))["history"] == 1


def test_what_the_client_raises_is_told_once_and_ends_the_logging_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = create_loggers(OPTIONS, RunFolder(tmp_path), {})[1]
    asked = []

    def log(*arguments: Any) -> None:
        asked.append(arguments)
        raise wandb.errors.CommError("gone\nfor good")

    monkeypatch.setattr(logger.experiment, "log", log)
    assert fit(logger, tmp_path).global_step == 4  # type: ignore[arg-type]
    logger.log_image("val/panel", [np.zeros((8, 8, 3), np.uint8)])  # type: ignore[attr-defined]
    logger.log_hyperparams({})
    finish_wandb(True)
    assert len(asked) == 1
    assert caplog.text.count("W&B failed (CommError: gone for good), so the run continues without it.") == 1


def test_online_without_a_key_is_offline_and_no_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    asked = modes(monkeypatch)
    create_loggers(OPTIONS, RunFolder(tmp_path), {})
    assert asked == ["offline"]


@pytest.mark.slow
def test_a_killed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from segrefine.engine.loggers import create_loggers\n"
        "from segrefine.runs.folder import RunFolder\n"
        f"create_loggers({OPTIONS!r}, RunFolder(Path(sys.argv[1])), {{}}); os.kill(os.getpid(), 9)"
    )
    alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # with a client of its own
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=alone, check=False)
    assert killed.returncode == -signal.SIGKILL
    identity = create_loggers(OPTIONS, RunFolder(tmp_path), {})[1].version
    finish_wandb(True)
    assert (tmp_path / "wandb_run_id.txt").read_text() == f"{identity}\n"
    assert len({path.name for path in (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")}) == 1
