"""Sweeps: named after what was asked for, finished runs skipped, others gone on with, with every launcher and sweeper.

Most are of a command that trains nothing, `COMMAND`, so that a job takes a second.
"""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NARROW_PROCESS
from omegaconf import OmegaConf

from segrefine.cli import jobs
from segrefine.cli.jobs import some_gpus
from segrefine.cli.sweeps import describe_sweep, slug, sweep_folder, sweep_options

CHECKOUT = Path(__file__).parents[2]

COMMAND = """
import json, os, signal, time
from omegaconf import OmegaConf
from segrefine.io.atomic import write_text
from segrefine.cli.command import run_command
from segrefine.core.errors import UserError
from segrefine.runs import Summary

def task(cfg, folder):
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_text(folder / "environment.json", json.dumps(dict(os.environ)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: (time.sleep(1.5), write_text(folder / "saved", ""), os._exit(75)))
    write_text(folder / "begun", "")
    if cfg.seed == 13 and not (folder.parent / "mended").exists():
        raise UserError("13 brings bad luck")
    if cfg.seed >= 100:
        time.sleep(cfg.seed)
    names = {"model": "fcn8s", "backbone": "resnet18", "datamodule": "shapes", "split": "val"}
    summary = Summary(**names, seed=cfg.seed, params=1, flops=1, mIoU=None, val_mIoU=cfg.recipe.lr)
    summary.write(folder / "summary.json")

run_command("train", task)
"""


class Sweep:
    """A sweep of `COMMAND` or another script, typed in `top`."""

    def __init__(self, top: Path, script: str | None = None) -> None:
        self.top, self.script = top, script or "command.py"
        (top / "command.py").write_text(COMMAND)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, self.script, "-m", *arguments]
        alone = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.Popen(
            command, cwd=self.top, stderr=subprocess.PIPE, text=True, env=alone | environment, start_new_session=True
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Its exit status and what it said."""
        with self.start(*arguments, **environment) as process:
            said = process.communicate(timeout=400)[1]
        assert "Traceback" not in said
        return process.returncode, said

    @property
    def folder(self) -> Path:
        (folder,) = self.top.glob("multirun/*")
        return folder

    def having(self, name: str) -> list[str]:
        """The runs in which there is such a file."""
        return sorted(path.relative_to(self.folder).parts[0] for path in self.top.glob(f"multirun/*/*/{name}"))

    def wait_for(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 300
        while len(list(self.top.glob(f"multirun/*/*/{name}"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def folder_of(*arguments: str, command: str = "train") -> str:
    given = ["-m", *arguments]
    return str(sweep_folder([*given, *sweep_options(command, given)]))


def name_of(*arguments: str) -> str:
    return re.sub(r"multirun/(.*)_[0-9a-f]{8}", r"\1", folder_of(*arguments))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model=fcn8s,seed=0", "model-fcn8s_seed-0"),
        ("+experiment/shapes=fcn8s_old,seed=0", "experiment-shapes-fcn8s_old_seed-0"),
        ("recipe.lr=0.001", "recipe.lr-0.001"),
        ("recipe.lr=1e+3", "recipe.lr-1e+3"),
    ],
)
def test_a_runs_name_is_its_options_as_they_stand(text: str, name: str) -> None:
    assert slug(text) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trainer.max_steps=-1", "trainer.max_steps=1"),
        ("init_from=/a/b.ckpt", "init_from=/a-b.ckpt"),
        ("init_from=../../a", "init_from=a"),
        ("init_from=..", "init_from=."),
        ("model.cascade=[[32],[4]]", "model.cascade=[[32,4]]"),
        ("model.widths=a+b", "model.widths=a,b"),
        ("a=" + "x" * 300, "a=" + "x" * 301),
        ("datamodule.root=ä", "datamodule.root=ö"),
        ("", "-"),
    ],
)
def test_what_does_not_fit_into_a_name_is_told_apart_by_a_digest(one: str, other: str) -> None:
    assert slug(one) != slug(other)
    for name in (slug(one), slug(other)):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name)
        assert shlex.quote(name) == name
        assert len(name.encode()) < 100
        assert Path("top", name).resolve().parent == Path("top").resolve()


def test_a_sweep_is_named_after_what_it_varies() -> None:
    assert name_of("model=fcn8s,refinenet", "seed=0,1,2", "backbone=resnet50") == "model-fcn8s+refinenet_seed-0+1+2"
    assert name_of("seed=range(0,5)", "model=glob(fcn*)") == "model-glob-fcn_seed-range-0+5"
    assert name_of("+experiment=a,b") == "experiment-a+b"
    assert name_of("hydra/sweeper=recipe_search") == "recipe_search"
    assert name_of("model=fcn8s") == "run"
    assert Path(folder_of("checkpoint=a.ckpt,b.ckpt", command="evaluate")).name.startswith("evaluate_checkpoint-a.ckpt")
    assert sweep_options("train", ["model=fcn8s", "seed=0"]) == []


def test_the_same_sweep_has_the_same_folder_and_another_has_another() -> None:
    words = ["model=fcn8s,refinenet", "seed=0,1", "backbone=resnet50", "recipe.lr=1e-3"]
    folder = folder_of(*words)
    same = [
        [*reversed(words)],
        [*words, "hydra/launcher=parallel", "hydra.launcher.n_jobs=4"],
        [*words, "hydra.sweeper.n_trials=9"],
    ]
    assert {folder_of(*each) for each in same} == {folder}
    others = [words[:3], [*words[:3], "recipe.lr=2e-3"], [*words, "hydra.sweeper.sampler.seed=1"], words[1:]]
    assert len({folder, *(folder_of(*each) for each in others)}) == 5
    assert folder_of(*words, command="evaluate") != folder


def test_a_huge_sweep_has_a_short_name() -> None:
    huge = "init_from=" + ",".join(f"/a/long/path/{number}" for number in range(200))
    folder = folder_of(huge, "seed=" + ",".join(map(str, range(200))))
    assert len(Path(folder).name.encode()) < 100
    assert folder != folder_of(huge, "seed=" + ",".join(map(str, range(199))))


def test_a_folder_that_was_given_is_kept(tmp_path: Path) -> None:
    assert folder_of("seed=0,1", "hydra.sweep.dir='my sweeps/a'") == "my sweeps/a"
    run = tmp_path / "my sweeps/a/seed-0"
    (run / ".hydra").mkdir(parents=True)
    (run / "wandb/offline-run-1").mkdir(parents=True)
    told = describe_sweep(run.parent)
    assert told[0].startswith("0 of 1 runs in ")
    assert told[1] == "the same command goes on with seed-0"
    (pattern,) = [line.removeprefix("to upload to W&B: wandb sync ") for line in told if "wandb" in line]
    (listed,) = subprocess.run(f"ls -d {pattern}", shell=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == str(run / "wandb/offline-run-1")


def test_runs_are_named_after_what_is_swept_and_lie_in_the_sweeps_folder(sweep: Sweep) -> None:
    words = ["init_from=/a/b,/a-b,..", "+experiment=camvid_fcn8s,camvid_fcn8s_random", "seed=7", "ckpt_path=null"]
    status, said = sweep.run(*words)
    assert status == 0, said
    runs = sweep.having("summary.json")
    kinds = [re.sub("_[0-9a-f]{8}$", "", run) for run in runs]
    names = product(["camvid_fcn8s", "camvid_fcn8s_random"], ["a-b", "a-b", "init_from"])
    assert sorted(kinds) == sorted(
        f"experiment-{one}_init_from{'' if other == 'init_from' else '-' + other}" for one, other in names
    )
    assert len(set(runs)) == 6
    configs = [yaml.safe_load((sweep.folder / run / "config.yaml").read_text()) for run in runs]
    assert sorted(config["init_from"] for config in configs) == sorted(["/a/b", "/a-b", ".."] * 2)
    at_wandb = [(config["logger"]["wandb"]["group"], config["logger"]["wandb"]["name"]) for config in configs]
    assert at_wandb == [(sweep.folder.name, run) for run in runs]


def test_the_same_again_skips_what_is_finished_and_tries_again_what_failed(sweep: Sweep) -> None:
    status, said = sweep.run("seed=12,13,14")
    assert status == 2
    assert sweep.having("summary.json") == ["seed-12", "seed-14"]  # what failed has not stopped the others
    assert "error: 13 brings bad luck" in said
    assert re.search("a job of the sweep ended with status 2: .*seed-13", said)
    assert f"2 of 3 runs in {sweep.folder.relative_to(sweep.top)} are finished" in said
    assert "the same command goes on with seed-13\n" in said
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*/begun")}
    (sweep.folder / "mended").touch()
    status, said = sweep.run("seed=12,13,14")
    assert status == 0
    after = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*/begun")}
    assert [path.parent.name for path in before if after[path] != before[path]] == ["seed-13"]
    assert said.count("finished before: ") == 2
    assert "3 of 3 runs" in said
    assert "goes on" not in said


def test_a_finished_run_of_other_options_is_refused_by_name(sweep: Sweep) -> None:
    sweep.run("seed=0,1")
    file = sweep.folder / "seed-0/config.yaml"
    config = yaml.safe_load(file.read_text())
    config["recipe"]["lr"], config["logger"]["csv"], config["datamodule"]["num_workers"] = 0.5, False, 17
    file.write_text(yaml.safe_dump(config))
    status, said = sweep.run("seed=0,1")
    assert status == 2
    message = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "seed-0 was finished with other options: recipe.lr=0.0004 (was 0.5). Remove it" in message
    assert "finished before: " in said  # the other one


def joblib() -> str:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the joblib extra")
    return "hydra/launcher=parallel"


def test_jobs_at_the_same_time_share_cores_and_gpus(sweep: Sweep) -> None:
    status, said = sweep.run("seed=1,2,3,4", joblib(), CUDA_VISIBLE_DEVICES="3,4,5")
    assert status == 0, said
    environments = [json.loads(file.read_text()) for file in sweep.folder.glob("*/environment.json")]
    assert len(environments) == 4
    assert {each["CUDA_VISIBLE_DEVICES"] for each in environments} == {"3", "4"}
    assert {each["OMP_NUM_THREADS"] for each in environments} == {str(max((os.cpu_count() or 1) // 2, 1))}


@pytest.mark.parametrize(
    ("visible", "devices", "shares"),
    [
        ("0,1,2", "auto", ["0", "1", "2", "0"]),
        ("0,1,2,3,4", 2, ["0,1", "2,3", "0,1", "2,3"]),
        ("GPU-a,GPU-b", 1, ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]),
        ("0", "auto", [None] * 4),
        ("0,1", 4, [None] * 4),
        ("", 1, [None] * 4),
    ],
)
def test_every_job_has_gpus_of_its_own_as_long_as_there_are_some(
    visible: str, devices: Any, shares: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    running = [some_gpus(tmp_path, OmegaConf.create({"trainer": {"devices": devices}})) for _ in range(5)]
    given = [job.__enter__().get("CUDA_VISIBLE_DEVICES") for job in running[:4]]
    assert given == shares
    running[1].__exit__(None, None, None)
    assert running[4].__enter__().get("CUDA_VISIBLE_DEVICES") == shares[1]  # that has become free


def test_gpus_are_counted_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jobs.visible_gpus() == []
    program = tmp_path / "nvidia-smi"
    lines = "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)"
    program.write_text(f"#!{sys.executable}\nprint('''{lines}''')\n")
    program.chmod(0o755)
    assert jobs.visible_gpus() == ["0", "1"]


def told_to(number: int, all_processes: bool) -> Callable[[subprocess.Popen[str]], None]:
    def tell(process: subprocess.Popen[str]) -> None:
        os.killpg(process.pid, number) if all_processes else process.send_signal(number)

    return tell


@pytest.fixture
def orphans(sweep: Sweep) -> Iterator[Callable[[], list[str]]]:
    """Processes at work in the sweep's folder; killed at the end."""

    def find() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                cwd, command = os.readlink(process / "cwd"), (process / "cmdline").read_text()
            except OSError:
                continue
            if cwd == str(sweep.top) and "command.py" in command:
                found.append(process.name)
        return found

    yield find
    for number in find():
        os.kill(int(number), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize(
    ("number", "all_processes", "status"),
    [
        (signal.SIGTERM, False, 75),  # from a scheduler, to the command alone
        (signal.SIGKILL, False, -9),
        (signal.SIGINT, True, 130),  # from a terminal
        (signal.SIGTERM, True, 75),
    ],
)
def test_jobs_at_the_same_time_save_and_end_when_the_sweep_is_stopped(
    number: int, all_processes: bool, status: int, sweep: Sweep, orphans: Callable[[], list[str]]
) -> None:
    """Two run, the third waits; it is not begun."""
    with sweep.start("seed=100,101,102", joblib()) as process:
        sweep.wait_for("begun", 2)
        told_to(number, all_processes)(process)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    if number != signal.SIGKILL:  # the sweep has waited for them
        assert sweep.having("saved") == ["seed-100", "seed-101"]
    sweep.wait_for("saved", 2)
    deadline = time.monotonic() + 30
    while orphans():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert sweep.having("begun") == ["seed-100", "seed-101"]
    assert not list(sweep.folder.glob(".stop*"))


def test_jobs_of_slurms_kind_run_and_are_skipped_when_finished(sweep: Sweep) -> None:
    """By submitit's executor for one machine: everything but SLURM itself."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the slurm extra")
    status, said = sweep.run("seed=12,13", "hydra/launcher=submitit_local")
    assert status == 2, said
    assert sweep.having("summary.json") == ["seed-12"]
    before = (sweep.folder / "seed-12/begun").stat().st_mtime_ns
    (sweep.folder / "mended").touch()
    status, said = sweep.run("seed=12,13", "hydra/launcher=submitit_local")
    assert status == 0, said
    assert sweep.having("summary.json") == ["seed-12", "seed-13"]
    assert (sweep.folder / "seed-12/begun").stat().st_mtime_ns == before


def test_a_search_goes_on_and_further(sweep: Sweep) -> None:
    """`COMMAND` scores as high as its rate."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the optuna extra")
    search = ["hydra/sweeper=recipe_search", "recipe.weight_decay=0.5"]
    status, said = sweep.run(*search, "hydra.sweeper.n_trials=2")
    assert status == 0, said
    configs = {file.parent.name: yaml.safe_load(file.read_text()) for file in sweep.folder.glob("*/config.yaml")}
    rates = {run: config["recipe"]["lr"] for run, config in configs.items()}
    assert len(set(rates.values())) == 2
    assert {config["recipe"]["weight_decay"] for config in configs.values()} == {0.5}
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*/begun")}
    found = sweep.folder / "optimization_results.yaml"
    assert yaml.safe_load(found.read_text())["best_value"] == max(rates.values())
    found.unlink()
    status, said = sweep.run(*search, "hydra.sweeper.n_trials=3")
    assert status == 0, said
    assert said.count("finished before: ") == 2
    after = {path: path.stat().st_mtime_ns for path in sweep.folder.glob("*/begun")}
    assert before.items() <= after.items()
    assert len(after) == 3
    best = yaml.safe_load(found.read_text())
    assert best["best_value"] >= max(rates.values())
    assert f"best mIoU of val {best['best_value']} with recipe.lr={best['best_value']} " in said


def test_a_real_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    """One run fails, the other is killed among its steps with all processes; then the same again, twice."""
    words = ["model=fcn32s", "backbone=vgg11", "backbone.classifier_channels=4", "trainer=debug", "logger=csv"]
    words += ["datamodule.train_size=4", "datamodule.val_size=2", "datamodule.test_size=1", "datamodule.batch_size=2"]
    words += ["datamodule.crop_size=32", "recipe.optimizer=sgd", "recipe.momentum=0.0"]  # small checkpoints
    words += ["trainer.max_epochs=8", "trainer.max_steps=ten,16"]  # of two steps an epoch, then a checkpoint
    sweep = Sweep(tmp_path, str(CHECKOUT / "train.py"))
    wrong, right = "trainer.max_steps-ten", "trainer.max_steps-16"
    with sweep.start(*words, **NARROW_PROCESS) as process:
        sweep.wait_for("checkpoints/last.ckpt", 1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert sweep.having("summary.json") == []
    status, said = sweep.run(*words, "hydra/launcher=basic", **NARROW_PROCESS)
    assert status == 2
    assert "trainer.max_steps=ten should be a whole number" in said
    assert f"the same command goes on with {wrong}\n" in said
    assert sweep.having("summary.json") == [right]
    (steps,) = re.findall(r"going on after (\d+) steps", (sweep.folder / right / "train.log").read_text())
    assert 0 < int(steps) < 16
    with (sweep.folder / right / "metrics.csv").open(newline="") as file:
        assert len([row for row in csv.DictReader(file) if row["val/mIoU"]]) == 8  # none twice, none missing
    written = (sweep.folder / right / "summary.json").stat().st_mtime_ns
    status, said = sweep.run(*words)
    assert status == 2
    assert f"finished before: {sweep.folder / right}\n" in said
    assert (sweep.folder / right / "summary.json").stat().st_mtime_ns == written
