"""W&B never asks, never stops a run; the environment decides whether it is online."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from segrefine.csv_logger import MetricsCSV
from segrefine.loggers import create_loggers, finish_wandb, has_wandb_key

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
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda experiment: experiment)
    return asked


def test_without_a_key_wandb_is_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = modes(monkeypatch)
    loggers = create_loggers(OPTIONS, tmp_path, {})
    assert asked == ["offline"]
    assert isinstance(loggers[0], MetricsCSV)
    assert len(loggers) == 2


def test_with_a_key_it_is_online_and_offline_where_the_service_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    asked = modes(monkeypatch, refuse=("online",))
    assert len(create_loggers(OPTIONS, tmp_path, {})) == 2
    assert asked == ["online", "offline"]


def test_training_goes_on_where_even_offline_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modes(monkeypatch, refuse=("offline",))
    assert len(create_loggers(OPTIONS, tmp_path, {})) == 1


def test_wandb_mode_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    asked = modes(monkeypatch)
    create_loggers(OPTIONS, tmp_path, {})
    assert asked == ["disabled"]


def test_a_resumed_run_keeps_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modes(monkeypatch)
    create_loggers(OPTIONS, tmp_path, {})
    first = (tmp_path / "wandb_run_id.txt").read_text()
    create_loggers(OPTIONS, tmp_path, {})
    assert (tmp_path / "wandb_run_id.txt").read_text() == first


def test_a_key_is_found_in_netrc(tmp_path: Path) -> None:
    assert not has_wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert has_wandb_key()


def test_a_real_offline_run_leaves_its_folder(tmp_path: Path) -> None:
    loggers = create_loggers(OPTIONS, tmp_path, {"seed": 0})
    loggers[1].log_metrics({"val/mIoU": 0.5}, step=1)
    finish_wandb(True)
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert wandb.run is None


def test_two_runs_of_one_process_are_two_runs_for_wandb(tmp_path: Path) -> None:
    identities = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        loggers = create_loggers(OPTIONS, tmp_path / name, {})
        identities.append(loggers[1].experiment.id)
        finish_wandb(True)
    assert identities[0] != identities[1]
    assert all(list((tmp_path / name / "wandb").glob("offline-run-*")) for name in ("first", "second"))
