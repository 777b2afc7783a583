"""Finished runs fetched from W&B, which a few lines stand in for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wandb
from PIL import Image

from segrefine.core.errors import UserError
from segrefine.runs.read import find_folders
from segrefine.runs.wandb import KEPT, download_runs, log_report

FILES = {
    **{f"run/{name}": f"{name} as logged" for name in ("per_image.csv", "metrics.csv", "config.yaml", "summary.json")},
    "config.yaml": "the service's own",
}


class File:
    def __init__(self, name: str, content: str | None) -> None:
        self.name, self.content = name, content

    def download(self, root: str, replace: bool = False) -> Any:
        if self.content is None:
            raise wandb.errors.CommError("connection lost")
        path = Path(root, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.content)
        return path.open()


class Run:
    def __init__(self, identity: str, files: dict[str, str | None], group: str = "", state: str = "finished") -> None:
        self.id, self.name, self.group, self.state, self.all_files = (
            identity,
            f"{identity} by name",
            group,
            state,
            files,
        )

    def files(self, names: list[str]) -> list[File]:
        return [File(name, content) for name, content in self.all_files.items() if name in names]


class Api:
    """As `wandb.Api`; runs of a project are asked for lazily there, so what fails fails in the iteration."""

    projects: dict[str, list[Run]] = {}  # noqa: RUF012
    asked = 0

    def __init__(self, timeout: int) -> None:
        Api.asked += 1

    def runs(self, path: str, filters: dict[str, str]) -> Any:
        if path not in self.projects:
            raise ValueError(f"Could not find project {path}")
        yield from (
            run for run in self.projects[path] if all(getattr(run, key) == value for key, value in filters.items())
        )


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setattr(Api, "projects", {"me/shapes": [Run("one", dict(FILES), "a"), Run("two", dict(FILES), "b")]})


def test_finished_runs_become_folders_that_are_read_as_any(tmp_path: Path) -> None:
    Api.projects["me/shapes"].append(Run("crashed", dict(FILES), state="crashed"))
    folders = download_runs("me/shapes", tmp_path)
    assert folders == [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        assert {file.name: file.read_text() for file in folder.iterdir()} == {
            name.removeprefix("run/"): content for name, content in FILES.items() if name.startswith("run/")
        }
        assert find_folders(str(folder)) == [folder]


def test_of_one_group(tmp_path: Path) -> None:
    assert download_runs("me/shapes", tmp_path, group="b") == [tmp_path / "two"]
    with pytest.raises(UserError, match="no finished run in me/shapes of group c"):
        download_runs("me/shapes", tmp_path, group="c")


def test_what_is_there_whole_is_not_fetched_again(tmp_path: Path) -> None:
    first, second = Api.projects["me/shapes"]
    second.all_files["run/summary.json"] = None
    with pytest.raises(UserError, match=r"W&B did not list the runs of me/shapes: CommError: connection lost"):
        download_runs("me/shapes", tmp_path)
    assert [folder.parent for folder in sorted(tmp_path.glob("*/summary.json"))] == [tmp_path / "one"]
    first.all_files.clear()
    second.all_files["run/summary.json"] = "there again"
    assert download_runs("me/shapes", tmp_path) == [tmp_path / "one", tmp_path / "two"]
    assert (tmp_path / "two/summary.json").read_text() == "there again"
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(KEPT)


def test_runs_without_the_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Api.projects["me/shapes"] += [Run("other", {"run/summary.json": "{}"}), Run("old", {})]
    assert len(download_runs("me/shapes", tmp_path)) == 2
    assert "of them: other by name (other), old by name (old)" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("path", ["shapes", "me/shapes/x", "me /shapes", "", "https://wandb.ai/me/shapes"])
def test_a_malformed_path_is_told(path: str, tmp_path: Path) -> None:
    before = Api.asked
    with pytest.raises(UserError, match="should be ENTITY/PROJECT"):
        download_runs(path, tmp_path)
    assert Api.asked == before


def test_an_unknown_project_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="W&B has no project me/gone"):
        download_runs("me/gone", tmp_path)


def test_without_a_key_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    before = Api.asked
    with pytest.raises(UserError, match="wandb login"):
        download_runs("me/shapes", tmp_path)
    assert Api.asked == before


def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    Api.projects["me/shapes"].append(Run("../out", dict(FILES)))
    with pytest.raises(UserError, match="which is not an id"):
        download_runs("me/shapes", tmp_path / "runs")
    assert not (tmp_path / "out").exists()


class Logged:
    """A W&B run that keeps what it is given."""

    url, dir, offline = "https://example.org/run", "x/files", False

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}

    def __enter__(self) -> "Logged":
        return self

    def __exit__(self, *_: Any) -> None:
        self.content["finished"] = True

    def log(self, content: dict[str, Any]) -> None:
        self.content |= content


def test_a_report_is_logged_as_tables_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = Logged(), []
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", lambda **options: (asked.append(options), run)[1])
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "differences.png")
    table = pd.DataFrame([("fcn8s", "better by 1.0 to 2.0 points")], columns=["variant", "verdict"])
    log_report(tmp_path, {"differences": table}, "team/project")
    wanted = {"job_type": "comparison", "entity": "team", "project": "project", "dir": tmp_path, "mode": "online"}
    assert asked[0] | wanted == asked[0]
    monkeypatch.delenv("WANDB_API_KEY")
    for mode in ("online", "shared"):  # for which W&B would ask
        monkeypatch.setenv("WANDB_MODE", mode)
        log_report(tmp_path, {}, "project")
        assert asked[-1]["mode"] == "offline"
    assert run.content["tables/differences"].columns == ["variant", "verdict"]
    assert run.content["tables/differences"].data == [["fcn8s", "better by 1.0 to 2.0 points"]]
    assert (run.content["plots/differences"].image.size, run.content["finished"]) == ((5, 4), True)


def test_a_report_that_the_service_refuses_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**options: Any) -> None:
        raise wandb.errors.CommError("no\nroute")

    monkeypatch.setattr(wandb, "init", refuse)
    log_report(tmp_path, {}, "project")
    assert caplog.messages == ["W&B did not take the report (CommError: no route)."]
