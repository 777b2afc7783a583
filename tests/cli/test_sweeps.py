"""Sweeps: named after what was asked for, finished runs skipped, others resumed, with every launcher and sweeper.

Most jobs are those of `COMMAND`, which train nothing and import nothing. The sweeps themselves run in this process, but
for those that a signal ends.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import run_typed
from later import put_off, run_waiting
from omegaconf import OmegaConf

from segrefine.cli.shares import Shares, visible_gpus
from segrefine.cli.sweeps import add_overrides, describe_sweep, slug, sweep_folder, sweep_options
from segrefine.core.machine import available_cores
from segrefine.core.signals import Stopped
from segrefine.runs.summary import Summary

CHECKOUT = Path(__file__).parents[2]

COMMAND = """
import json, os, signal, sys, time
from pathlib import Path

def job(folder, seed, ckpt_path=None, rate=0.0004, together=1):
    def save(number, _):
        if seed >= 200:  # which does not listen
            return
        time.sleep(0.5)
        (folder / "saved").touch()
        os._exit(75)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, save)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/last.ckpt").touch()
    told = {"ckpt_path": ckpt_path, "cores": sorted(os.sched_getaffinity(0)), "environment": dict(os.environ)}
    (folder / "told.json").write_text(json.dumps(told))
    (folder / "begun").touch()
    while len(list(folder.parent.glob("*/begun"))) < together:
        time.sleep(0.05)
    if seed == 13 and not (folder.parent / "mended").exists():
        sys.exit("error: 13 brings bad luck")
    if seed >= 100 and not ckpt_path:
        time.sleep(100)
    summary = {"model": "a", "backbone": "b", "datamodule": "c", "split": "val", "params": 1, "flops": 1, "mIoU": None}
    (folder / "summary.json").write_text(json.dumps(summary | {"seed": seed, "val_mIoU": rate}))

if {"-m", "--multirun"} & set(sys.argv):
    from segrefine.cli.command import run_command
    from segrefine.cli.train import Options
    run_command("train", print, Options)
else:
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    together, rate = int(os.environ.get("TOGETHER", 1)), float(words.get("recipe.lr", 0.0004))
    job(Path(words["hydra.run.dir"].strip("'")), int(words.get("seed", 0)), words.get("ckpt_path"), rate, together)
"""
"""A job's rate is its score. It fails for a seed of 13, and ends within 100 seconds for one above 100."""

CONFIGS = """
from omegaconf import OmegaConf
from segrefine.cli.command import run_command
from segrefine.cli.train import Options

run_command("train", lambda cfg, folder: OmegaConf.save(cfg, folder / "config.yaml", resolve=True), Options)
"""


class Sweep:
    """A sweep typed in `top`."""

    def __init__(self, top: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.top, self.capture = top, capture
        self.write(COMMAND)

    def write(self, command: str) -> None:
        (self.top / "command.py").write_text(command)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The sweep in a process of its own, of a process group of its own."""
        command = [sys.executable, "command.py", "-m", *arguments]
        return subprocess.Popen(command, cwd=self.top, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def run(self, *arguments: str, script: str | None = None) -> tuple[int, str]:
        """The exit status of the sweep, run in this process, and what it and its jobs said."""
        flag = [] if {"-m", "--multirun"} & set(arguments) else ["-m"]
        status = run_typed(self.top, script or str(self.top / "command.py"), *flag, *arguments)
        said = self.capture.readouterr().err
        assert "Traceback" not in said
        return status, said

    @property
    def folder(self) -> Path:
        (folder,) = self.top.glob("multirun/*")
        return folder

    def having(self, name: str) -> list[str]:
        """The runs in which there is such a file."""
        return sorted(path.relative_to(self.folder).parts[0] for path in self.top.glob(f"multirun/*/*/{name}"))

    def told(self) -> list[dict[str, Any]]:
        """What each job found."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*/told.json"))]

    def begun(self) -> dict[str, int]:
        """When each run was begun."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.folder.glob("*/begun")}

    def wait_for(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 300
        while len(list(self.top.glob(f"multirun/*/*/{name}"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return Sweep(tmp_path, capfd)


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
    assert told[1] == "the same command resumes seed-0"
    (pattern,) = [line.removeprefix("to upload to W&B: wandb sync ") for line in told if "wandb" in line]
    (listed,) = subprocess.run(f"ls -d {pattern}", shell=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == str(run / "wandb/offline-run-1")


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["a=1,2", "-m"], ["-m", "added=3", "a=1,2"]),
        (["a=1,2", "--multirun", "b=1"], ["--multirun", "added=3", "a=1,2", "b=1"]),
        (["-m", "--cfg", "job", "a=1,2", "~b"], ["-m", "--cfg", "job", "added=3", "a=1,2", "~b"]),
        (["a=1,2", "-m", "--cfg", "job"], ["-m", "added=3", "a=1,2", "--cfg", "job"]),
        (["-m"], ["-m", "added=3"]),
    ],
)
def test_what_is_added_to_the_command_line_stands_beside_the_overrides(typed: list[str], given: list[str]) -> None:
    assert add_overrides(typed, ["added=3"]) == given


def test_runs_are_named_after_what_is_swept_and_lie_in_the_sweeps_folder(sweep: Sweep) -> None:
    """Every job is told its values, folder and names in a way that Hydra reads; -m may stand anywhere."""
    sweep.write(CONFIGS)
    words = ["init_from=/a/b,..", "+experiment=choice(fcn8s_heavy)", "seed=7", "-m", "ckpt_path=null"]
    status, said = sweep.run(*words, "hydra.launcher.n_jobs=2")
    assert status == 0, said
    runs = sweep.having("config.yaml")
    kinds = [re.sub("_[0-9a-f]{8}$", "", run) for run in runs]
    assert kinds == ["experiment-fcn8s_heavy_init_from-a-b", "experiment-fcn8s_heavy_init_from"]
    configs = [yaml.safe_load((sweep.folder / run / "config.yaml").read_text()) for run in runs]
    assert [config["init_from"] for config in configs] == ["/a/b", ".."]
    assert {config["seed"] for config in configs} == {7}
    at_wandb = [(config["logger"]["wandb"]["group"], config["logger"]["wandb"]["name"]) for config in configs]
    assert at_wandb == [(sweep.folder.name, run) for run in runs]


def test_the_same_again_skips_what_is_finished_and_tries_again_what_failed(sweep: Sweep) -> None:
    status, said = sweep.run("seed=13,14", "--multirun")
    assert status == 2
    assert sweep.having("summary.json") == ["seed-14"]  # which what failed has not stopped
    assert "error: 13 brings bad luck" in said
    assert re.search("a job of the sweep ended with status 1: .*seed-13", said)
    assert f"1 of 2 runs in {sweep.folder.relative_to(sweep.top)} are finished" in said
    assert "the same command resumes seed-13\n" in said
    before = sweep.begun()
    (sweep.folder / "mended").touch()
    status, said = sweep.run("seed=13,14")
    assert status == 0
    assert [run for run, moment in sweep.begun().items() if before[run] != moment] == ["seed-13"]
    assert said.count("finished before: ") == 1
    assert "2 of 2 runs" in said
    assert "goes on" not in said


def write_finished(run: Path, config: dict[str, Any]) -> None:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary = Summary(
        model="fcn8s", backbone="vgg11", datamodule="shapes", split="val", seed=0, params=1, flops=1, mIoU=None
    )
    summary.write(run / "summary.json")


def test_a_finished_run_of_other_options_is_refused_by_name(sweep: Sweep) -> None:
    words = ["seed=0,1", "hydra.sweep.dir=multirun/mine"]
    for run, rate, start in (("seed-0", 0.5, "a.pth"), ("seed-1", 0.0005, None)):
        config = {"recipe": {"lr": rate}, "logger": {"csv": False}, "datamodule": {"num_workers": 17}}
        config["init_from"] = start
        write_finished(sweep.top / "multirun/mine" / run, config)
    status, said = sweep.run(*words)
    assert status == 2
    message = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "seed-0 was finished with other options: " in message
    assert "recipe.lr=0.0005 (was 0.5)" in message
    assert "init_from=None (was a.pth)" in message
    assert "finished before: " in said  # the other one


def test_jobs_at_the_same_time_have_cores_and_gpus_of_their_own(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two wait for each other; the third gets what one of them had."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    monkeypatch.setenv("TOGETHER", "2")
    status, said = sweep.run("seed=1,2,3", "hydra/launcher=parallel")
    assert status == 0, said
    told = sweep.told()
    cores = available_cores()
    shares = [cores[:1], cores[-1:]] if len(cores) < 2 else [cores[: len(cores) // 2], cores[len(cores) // 2 :]]
    expected = [(gpu, share[: len(cores) // 2 or 1]) for gpu, share in zip("34", shares, strict=True)]
    found = [(each["environment"]["CUDA_VISIBLE_DEVICES"], each["cores"]) for each in told]
    assert found[:2] == expected
    assert found[2] in expected
    assert {each["environment"]["OMP_NUM_THREADS"] for each in told} == {str(len(expected[0][1]))}


@pytest.mark.parametrize("count", ["0", "two", "1.5"])
def test_a_number_of_jobs_that_makes_no_sense_is_refused(count: str, sweep: Sweep) -> None:
    status, said = sweep.run("seed=1,2", f"hydra.launcher.n_jobs={count}")
    assert status == 2
    assert f"error: hydra.launcher.n_jobs={count} should be a whole" in said
    assert sweep.having("begun") == []


@pytest.mark.parametrize(
    ("cores", "count", "shares"),
    [
        (list(range(8)), 3, [[0, 1], [2, 3], [4, 5]]),
        ([2, 3, 9, 11], 2, [[2, 3], [9, 11]]),
        ([4, 6], 5, [[4], [6], [4], [6], [4]]),
        ([0, 1, 2], 1, [[]]),  # any
    ],
)
def test_cores_are_divided_among_the_jobs(
    cores: list[int], count: int, shares: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segrefine.cli.shares.available_cores", lambda: cores)
    divided = Shares(count)
    assert [divided.share(number, OmegaConf.create()).cores for number in range(count)] == shares


@pytest.mark.parametrize(
    ("visible", "devices", "shares"),
    [
        ("0,1,2", "auto", ["0", "1", "2", "0"]),
        ("0,1,2,3,4", 2, ["0,1", "2,3", "0,1", "2,3"]),
        ("GPU-a,GPU-b", 1, ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]),
        ("0", "auto", [None] * 4),
        ("0,1", 4, [None] * 4),
        ("0,1", [1], [None] * 4),
        ("", 1, [None] * 4),
    ],
)
def test_every_job_has_gpus_of_its_own_as_long_as_there_are_some(
    visible: str, devices: Any, shares: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("OMP_NUM_THREADS", "17")  # given, so it stays
    cfg = OmegaConf.create({"trainer": {"devices": devices}})
    environments = [Shares(4).share(number, cfg).environment for number in range(4)]
    assert {each["OMP_NUM_THREADS"] for each in environments} == {"17"}
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in environments] == shares
    assert Shares(1).share(0, cfg).environment == {}


def test_gpus_are_counted_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    program = tmp_path / "nvidia-smi"
    lines = "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)"
    program.write_text(f"#!{sys.executable}\nprint('''{lines}''')\n")
    program.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


def told_to(number: int, all_processes: bool) -> Callable[[subprocess.Popen[str]], None]:
    def tell(process: subprocess.Popen[str]) -> None:
        os.killpg(process.pid, number) if all_processes else process.send_signal(number)

    return tell


@pytest.mark.parametrize(
    ("number", "all_processes", "status"),
    [
        (signal.SIGTERM, False, 75),  # from a scheduler, to the command alone
        pytest.param(signal.SIGTERM, True, 75, marks=pytest.mark.slow),
        (signal.SIGINT, True, 130),  # from a terminal
    ],
)
def test_jobs_at_the_same_time_save_and_end_when_the_sweep_is_stopped(
    number: int, all_processes: bool, status: int, sweep: Sweep
) -> None:
    """Two run, the third waits; it is not begun."""
    with sweep.start("seed=100,101,102", "hydra/launcher=parallel") as process:
        sweep.wait_for("begun", 2)
        told_to(number, all_processes)(process)
        said = process.communicate(timeout=60)[1]
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # none is left of the group
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert sweep.having("saved") == sweep.having("begun") == ["seed-100", "seed-101"]


def test_a_second_ctrl_c_ends_jobs_that_do_not(sweep: Sweep) -> None:
    with sweep.start("seed=200,201", "hydra.launcher.n_jobs=2") as process:
        assert process.stderr is not None
        sweep.wait_for("begun", 2)
        os.killpg(process.pid, signal.SIGINT)
        while "SIGINT: stopping" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    assert process.returncode == 130


def test_a_sweep_that_was_killed_goes_on(sweep: Sweep) -> None:
    """With all its processes; then the same again, with another launcher."""
    with sweep.start("seed=100,101", "hydra/launcher=parallel") as process:
        sweep.wait_for("begun", 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert sweep.having("summary.json") == []
    assert [each["ckpt_path"] for each in sweep.told()] == [None, None]
    status, said = sweep.run("seed=100,101", "hydra/launcher=basic")
    assert status == 0, said
    assert sweep.having("summary.json") == ["seed-100", "seed-101"]
    assert [each["ckpt_path"] for each in sweep.told()] == ["last", "last"]


def test_jobs_of_slurms_kind_run_and_are_skipped_when_finished(sweep: Sweep) -> None:
    """By submitit's executor for one machine: everything but SLURM itself."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the slurm extra")
    write_finished(sweep.top / "multirun/mine/seed-12", {})
    status, said = sweep.run("seed=12,13,14", "hydra.sweep.dir=multirun/mine", "hydra/launcher=submitit_local")
    assert status == 2, said
    assert "seed-13" in said
    assert sweep.having("begun") == ["seed-13", "seed-14"]
    assert sweep.having("summary.json") == ["seed-12", "seed-14"]


def test_a_search_goes_on_and_further(sweep: Sweep) -> None:
    """`COMMAND` scores as high as its rate."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the optuna extra")
    search = ["hydra/sweeper=recipe_search", "recipe.weight_decay=0.5"]
    status, said = sweep.run(*search, "hydra.sweeper.n_trials=2", "hydra.launcher.n_jobs=2")
    assert status == 0, said
    before = sweep.begun()
    rates = [json.loads(file.read_text())["val_mIoU"] for file in sweep.folder.glob("*/summary.json")]
    assert len(set(rates)) == 2
    found = sweep.folder / "optimization_results.yaml"
    assert yaml.safe_load(found.read_text())["best_value"] == max(rates)
    found.unlink()
    status, said = sweep.run(*search, "hydra.sweeper.n_trials=3")
    assert status == 0, said
    assert said.count("finished before: ") == 2
    assert before.items() <= sweep.begun().items()
    assert len(sweep.begun()) == 3
    best = yaml.safe_load(found.read_text())
    assert best["best_value"] >= max(rates)
    assert f"best mIoU of val {best['best_value']} with recipe.lr={best['best_value']} " in said


def test_a_real_run_that_broke_off_is_resumed_by_its_sweep(
    sweep: Sweep, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks off after a few steps; the job of the sweep finds its checkpoint. Both in this process."""
    words = ["model=fcn32s", "backbone=vgg11", "backbone.classifier_channels=4", "trainer=debug", "logger=csv"]
    words += ["datamodule.train_size=4", "datamodule.val_size=2", "datamodule.test_size=1", "datamodule.batch_size=2"]
    words += ["datamodule.crop_size=32", "recipe.optimizer=sgd", "recipe.momentum=0.0", "trainer.max_epochs=4"]
    swept, run = [*words, "seed=choice(3)"], "seed-3"
    folder = folder_of(*swept)

    def break_off(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("segrefine.engine.callbacks.progress.EpochLine.on_train_epoch_end", break_off)
        status = run_typed(sweep.top, "train.py", *words, "seed=3", f"hydra.run.dir={folder}/{run}")
    assert status == 75
    assert sweep.having("checkpoints/last.ckpt") == [run]
    put_off(monkeypatch)
    status, said = sweep.run(*swept, script=str(CHECKOUT / "train.py"))
    assert status == 0, said
    assert run_waiting(sweep.top) == [0]
    assert sweep.having("summary.json") == [run]
    (steps,) = re.findall(r"after (\d+) steps,? from", (sweep.folder / run / "train.log").read_text())
    assert 0 < int(steps) < 8
    with (sweep.folder / run / "metrics.csv").open(newline="") as file:
        assert len([row for row in csv.DictReader(file) if row["val/mIoU"]]) == 4  # none twice, none missing
