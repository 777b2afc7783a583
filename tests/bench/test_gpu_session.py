"""The session on a GPU (benchmarks/gpu_session.py): its commands, its order, and what it keeps, without a GPU."""

import csv
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segrefine.core.config import CONFIG_FOLDER
from segrefine.data.build import build_datamodule
from segrefine.engine.recipe import Recipe
from segrefine.engine.trainer import check_trainer
from segrefine.models.build import build_model

CHECKOUT = Path(__file__).parents[2]
sys.path.append(str(CHECKOUT / "benchmarks"))

import gpu_kit  # noqa: E402
import gpu_session  # noqa: E402


@pytest.fixture
def session(tmp_path: Path) -> gpu_session.Session:
    session, _ = gpu_session.parse([str(tmp_path / "work"), str(tmp_path / "out"), "together=2"], tiny=False)
    gpu_session.carry_on(session, None)
    return session


def composed(command: str, words: list[str]) -> Any:
    words = [word for word in words if not word.startswith("hydra.run.dir=")]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return OmegaConf.to_container(compose(command, overrides=words), resolve=True)


@pytest.mark.parametrize("tiny", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_18_runs_compose_and_build_and_differ_in_the_network_alone(tmp_path: Path, tiny: bool) -> None:
    session, _ = gpu_session.parse([str(tmp_path / "work"), str(tmp_path / "out"), "lr=0.002", "epochs=7"], tiny)
    everything = gpu_session.runs(session)
    assert len(everything) == len({run.name for run in everything}) == (6 if tiny else 18)
    assert [run.seed for run in everything] == sorted(run.seed for run in everything)
    shared = set()
    for run in everything[:6]:
        cfg = composed("train", run.command(session)[2:])
        assert (cfg["seed"], cfg["ckpt_path"], cfg["log_dead_units"]) == (run.seed, "last", True)
        assert (cfg["trainer"]["max_epochs"], cfg["trainer"]["check_val_every_n_epoch"]) == (7, 7)
        assert cfg["recipe"]["lr"] == 0.002
        assert (cfg["recipe"]["center_updates"], cfg["model"]["init"]) == ("hidden", "zero_mean")
        shared.add(json.dumps({group: cfg[group] for group in ("recipe", "datamodule", "trainer", "backbone")}))
        check_trainer(cfg["trainer"])
        Recipe.from_config(cfg["recipe"])
        assert build_datamodule(cfg["datamodule"], run_seed=0).num_classes == 11
        with torch.device("meta"):
            net = build_model(cfg["model"], cfg["backbone"] | {"weights": None}, 11).eval()
            assert net(torch.empty(1, 3, 33, 47)).shape == (1, 11, 33, 47)
        assert cfg["model"].get("crp_links", -1) == {"refinenet_crp0": 0, "refinenet": 4, "refinenet_lw": 4}.get(
            run.network, -1
        )
    assert len(shared) == 1


@pytest.mark.parametrize("tiny", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_timing_composes_and_builds(tmp_path: Path, tiny: bool) -> None:
    found = gpu_session.timings(tiny)
    assert len({tuple(timing.key.values()) for timing in found}) == len(found)
    for timing in found:
        cfg = composed("benchmark", timing.command(tmp_path / "speed.json", tiny)[3:])
        assert (cfg["compile"], cfg["steps"]) == (timing.compiled, "train")
        assert (cfg["batch_size"], cfg["size"]) == ((1, [64, 64]) if tiny else (16, [512, 512]))
        with torch.device("meta"):
            build_model(cfg["model"], cfg["backbone"], cfg["num_classes"])


WORKER = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
time.sleep(0.1)
folder.mkdir(parents=True, exist_ok=True)
if folder.name in sys.argv[2].split(","):
    sys.exit("it broke")
(folder / "config.yaml").write_text("seed: 0")
(folder / "panels.png").write_text("a photograph")
(folder / "part").write_text('{"mIoU": 0.5}')
(folder / "part").rename(folder / "summary.json")
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `quick(broken="")`: runs then take a tenth of a second, and those named fail."""

    def replace(broken: str = "") -> None:
        def command(run: gpu_session.Run, session: gpu_session.Session) -> list[str]:
            return [sys.executable, "-c", WORKER, str(session.work / "runs" / run.name), broken]

        monkeypatch.setattr(gpu_session.Run, "command", command)

    return replace


def rows(session: gpu_session.Session) -> list[dict[str, str]]:
    with (session.out / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_second_call_on_a_bare_machine_does_what_the_first_did_not(
    session: gpu_session.Session, quick: Any, tmp_path: Path
) -> None:
    quick(broken="fcn8s_seed0")
    session.seconds = session.elapsed() + 1.5
    gpu_session.train_all(session)
    done = [row["run"] for row in rows(session) if row["status"] == "done"]
    assert 0 < len(done) < 17
    assert {row["run"] for row in rows(session) if row["status"] == "failed"} <= {"fcn8s_seed0"}
    with tarfile.open(session.out / "results.tar.gz") as archive:
        assert sorted(archive.getnames()) == sorted(
            f"runs/{name}/{file}" for name in done for file in ("summary.json", "config.yaml")
        )

    quick()
    words = [str(tmp_path / "elsewhere"), str(tmp_path / "out2"), str(session.out), "together=9"]
    second, before = gpu_session.parse(words, tiny=False)
    gpu_session.carry_on(second, before)
    gpu_session.train_all(second)
    finished = [row["run"] for row in rows(second) if row["status"] == "done"]
    assert sorted(finished) == sorted(run.name for run in gpu_session.runs(second))  # each once
    assert finished[: len(done)] == done


def test_no_run_is_begun_that_would_not_end(session: gpu_session.Session, quick: Any) -> None:
    quick()
    session.together = 9
    for name, seconds in (("refinenet", 1000), ("fcn8s", 0.1)):
        row = {"run": f"{name}_seed9", "network": name, "seconds": seconds, "status": "done"}
        gpu_session.append(session.out / "runs.csv", gpu_session.RUN_FIELDS, row)
    gpu_session.train_all(session)
    expected = [run.name for run in gpu_session.runs(session) if run.network != "refinenet"]
    assert sorted(row["run"] for row in rows(session)[2:]) == sorted(expected)

    session.together = 1
    gpu_session.train_all(session)  # but one that is longer than any call is, where there is nothing else to do
    assert [row["run"] for row in rows(session)[17:]] == ["refinenet_seed0"]


def test_a_row_of_speed_has_the_share_of_the_cards_peak() -> None:
    result = {
        "images_per_second": 100.0,
        "quartiles": [90.0, 110.0],
        "multiply_adds_per_image": 10**12,
        "precision": "bfloat16",
        "memory_bytes": 2**30,
        "held_bytes": 2**20,
        "share_of_matmul_rate": 0.25,
    }
    about = {"options": {"batch_size": 16, "size": [512, 512]}, "environment": "python 3.12\ntorch 2.11.0\n"}
    row = gpu_session.describe(about, result, "NVIDIA H100 80GB HBM3")
    assert row["share_of_peak"] == "0.202"  # 200 TFLOP/s of 989
    assert (row["step_MiB"], row["peak_MiB"], row["torch"]) == (1024, 1025, "2.11.0")
    assert gpu_session.describe(about, result, "NVIDIA A100")["share_of_peak"] == ""


def wheel(folder: Path, name: str, needs: str = "", tag: str = "py3-none-any") -> Path:
    file = folder / f"{name}-9.0-{tag}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}-9.0.dist-info/METADATA", f"Name: {name}\nVersion: 9.0\n{needs}\n")
    return file


def test_wheels_are_for_what_is_missing_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_kit.PROJECT, "dependencies", ["torch>=2", "nowhere_a>=8", "lightning>=99", "nowhere_c"])
    first = wheel(tmp_path, "nowhere_a", "Requires-Dist: nowhere_b\nRequires-Dist: nowhere_x; extra == 'more'")
    second = wheel(tmp_path, "nowhere_b")
    for name, tag in (("torch", "py3-none-any"), ("nowhere_x", "py3-none-any"), ("nowhere_c", "cp27-cp27m-win32")):
        wheel(tmp_path, name, tag=tag)
    assert gpu_kit.missing(tmp_path) == [first, second]
    said = capsys.readouterr().err
    assert "lightning 2." in said
    assert "is out of range (wanted: >=99)" in said
    assert "nowhere_c is not installed" in said
    assert "nowhere_x" not in said


def test_a_kit_unpacks_to_the_bytes_that_went_in(tmp_path: Path) -> None:
    for split in ("train", "trainannot", "val", "valannot"):
        (tmp_path / "camvid" / split).mkdir(parents=True)
        (tmp_path / "camvid" / split / "0.png").write_bytes(split.encode())
    (tmp_path / "vgg16").write_bytes(b"weights")
    (tmp_path / "kit/wheels").mkdir(parents=True)
    wheel(tmp_path / "kit/wheels", "nowhere_a")
    gpu_kit.pack(tmp_path / "kit", tmp_path / "camvid", tmp_path / "vgg16")
    assert [file.name for file in (tmp_path / "kit").iterdir()] == [gpu_kit.ARCHIVE]
    gpu_kit.unpack(tmp_path / "kit", tmp_path / "work")
    assert (tmp_path / "work/kit/vgg16.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "work/kit/camvid/valannot/0.png").read_bytes() == b"valannot"
    assert len(list((tmp_path / "work/kit/wheels").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epoch=3"], "epoch: no such option"),
        (["epochs=many"], "An option should be a number"),
    ],
)
def test_mistakes_are_told_in_words(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        gpu_session.parse(["work", "out", *words], tiny=False)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here"):
        gpu_session.find_gpu(tiny=False)


def test_without_a_command_the_script_shows_its_use() -> None:
    shown = subprocess.run([CHECKOUT / "benchmarks/gpu_session.sh"], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert "gpu_session.sh prepare CAMVID" in shown.stderr
    assert "set -euo" not in shown.stderr
