"""Speed of networks on a GPU, then RefineNet beside FCN on CamVid, in calls that may be cut off at any moment.

    python benchmarks/gpu_session.py run WORK OUT [FROM] [OPTION=VALUE ...]        as gpu_session.sh calls it

Options (defaults): epochs (30) and lr (0.0005) of the runs on CamVid, together (3) of which go on at a time; seconds
(560) that the call may last, of which speed_seconds (300) are for measuring speed, compile_seconds (150) for a command.

OUT gets speed.csv, runs.csv and results.tar.gz, which holds what experiments/scripts/collect.py takes of finished runs.
All are whole at every moment. A row of FROM or a finished run is not done again. A run that was stopped goes on from
its last checkpoint if WORK is still there, and begins anew if not. No run is begun that would not end in time, by what
its network took before. Seed by seed, so that what is there is complete for the first seeds.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpu_kit
from rows import append, read

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]

PEAKS = {"NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA H200": 989.4e12}
"""Dense bfloat16 operations a second of Tensor Cores, by the device's name. NVIDIA's data sheets of H100 (SXM) and H200
give 1,979 TFLOP/s "with sparsity", which is twice that."""

SPEED = [("refinenet", "resnet101"), ("fcn8s", "vgg16"), ("fcn8s", "resnet101"), ("refinenet_lw", "resnet50")]
PEERS = [
    ("fcn_dilated", "resnet50", "fcn_resnet50"),
    ("refinenet", "resnet101", "rf101"),
    ("refinenet_lw", "resnet50", "rf_lw50"),
    ("fcn8s", "vgg16", "fcn8s"),
]
"""With a function of peers.py each. All but the first, torchvision's, need SEGREFINE_PORTS."""

SPEED_FIELDS = [
    *("network", "compile", "batch", "size", "precision", "images_per_second", "low", "high", "step_MiB", "peak_MiB"),
    *(
        "multiply_adds_G",
        "TFLOP_per_second",
        "share_of_peak",
        "share_of_matmul",
        "command_seconds",
        "gpu",
        "torch",
        "date",
        "status",
    ),
]

NETWORKS = ["refinenet", "refinenet_crp0", "refinenet_lw", "fcn8s", "fcn16s", "fcn32s"]
"""Of experiments/configs/experiment/camvid_native, the longest first: then the last ones end together."""

RUN_FIELDS = ["run", "network", "resumed", "seconds", "mIoU", "status"]
KEPT = [
    *("summary.json", "config.yaml", "metrics.csv", "per_image.csv", "environment.txt", "train.log"),
    ".hydra/overrides.yaml",
]
"""Files of a run that results.tar.gz holds: not its panels, which show the photographs."""

GRACE = 15
"""Seconds for runs to write their checkpoints after SIGTERM."""

TINY_SPEED = ["batch_size=1", "size=[64,64]", "rounds=2", "precision=32-true", "device=cpu"]
TINY_TRAIN = [
    *("backbone=resnet18", "backbone.weights=null", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    *("trainer.limit_train_batches=4", "trainer.limit_test_batches=2", "checkpoint_every_minutes=0.01"),
    *("datamodule.batch_size=1", "datamodule.eval_batch_size=1", "datamodule.crop_size=[64,64]"),
    "datamodule.num_workers=0",
]
TINY_WIDTHS = "model.widths={4:8,8:8,16:8,32:8}"


@dataclass(kw_only=True)
class Session:
    """A call.

    Attributes:
        kit, work, out: folders: of camvid/ and vgg16.safetensors, of what may be lost, and of what is kept.
        spent: seconds that went by before this process began.
        tiny: on a CPU, with a network, an image and a step of a kind.
    """

    kit: Path
    work: Path
    out: Path
    tiny: bool = False
    epochs: int = 30
    lr: float = 0.0005
    together: int = 3
    seconds: float = 560
    speed_seconds: float = 300
    compile_seconds: float = 150
    spent: float = 0
    gpu: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def seeds(self) -> list[int]:
        return [0] if self.tiny else [0, 1, 2]

    def elapsed(self) -> float:
        """Seconds of the call so far."""
        return self.spent + time.monotonic() - self.began

    def left(self) -> float:
        """Seconds until everything has to stop."""
        return self.seconds - self.elapsed()


# Speed


@dataclass(frozen=True)
class Timing:
    """One command of `segrefine benchmark`."""

    model: str
    backbone: str
    compiled: bool = False
    peer: str = ""

    @property
    def key(self) -> dict[str, str]:
        """What tells its row from others."""
        beside = f" beside {self.peer}" if self.peer else ""
        return {"network": f"{self.model}/{self.backbone}{beside}", "compile": str(self.compiled).lower()}

    def command(self, output: Path, tiny: bool = False, rounds: int = 20) -> list[str]:
        words = [
            *(f"model={self.model}", f"backbone={'resnet18' if tiny else self.backbone}", "steps=train"),
            *("batch_size=16", "size=[512,512]", "precision=bf16-mixed", "channels_last=true", f"rounds={rounds}"),
            *(f"compile={str(self.compiled).lower()}", f"output={output}"),
        ]
        if self.peer:
            words.append(f"peer=benchmarks/peers.py:{self.peer}")
        if self.peer == "fcn_resnet50":  # so that the two do the same arithmetic
            words += ["peer_precision=bf16-mixed", "peer_channels_last=true"]
        if tiny:
            words += TINY_SPEED + [TINY_WIDTHS] * self.model.startswith("refinenet")
        return [sys.executable, "-m", "segrefine.benchmark", *words]


def timings(tiny: bool = False) -> list[Timing]:
    """Without torch.compile, with it, and beside others."""
    if tiny:
        return [Timing(*SPEED[-1]), Timing(*SPEED[-1], compiled=True)]
    ports = os.environ.get("SEGREFINE_PORTS")
    eager = [Timing(*network) for network in SPEED]
    compiled = [Timing(*network, compiled=True) for network in SPEED]
    peers = [Timing(model, backbone, peer=peer) for model, backbone, peer in (PEERS if ports else PEERS[:1])]
    return eager + compiled + peers


def measure_speed(session: Session) -> None:
    """Add the rows that speed.csv lacks, as far as the time goes."""
    table = session.out / "speed.csv"
    done = [{name: row[name] for name in ("network", "compile")} for row in read(table)]
    waiting = [timing for timing in timings(session.tiny) if timing.key not in done]
    until = session.elapsed() + session.speed_seconds
    warmed = False
    for timing in waiting:
        if timing.compiled and not warmed:
            compile_all(session, [each for each in waiting if each.compiled])
            warmed = True
        if session.elapsed() < until and session.left() > session.compile_seconds:
            time_one(session, timing, table)


def compile_all(session: Session, waiting: list[Timing]) -> None:
    """Compile all networks at once, each in a process: the kernels stay in TORCHINDUCTOR_CACHE_DIR, where those that
    are timed, one by one, find them."""
    spare = session.work / "warm_up.json"
    running = [start(each.command(spare, session.tiny, 1), session.work / "compile.log") for each in waiting]
    deadline = time.monotonic() + session.compile_seconds
    for process in running:
        finish(process, deadline - time.monotonic())


def time_one(session: Session, timing: Timing, table: Path) -> None:
    """Run a benchmark and add its row: the results, or why there are none."""
    output, log = session.work / "speed.json", session.out / "speed.log"
    output.unlink(missing_ok=True)
    began = time.monotonic()
    status = finish(start(timing.command(output, session.tiny), log), session.compile_seconds)
    row = timing.key | {
        "command_seconds": round(time.monotonic() - began),
        "gpu": session.gpu,
        "date": datetime.now(UTC).date().isoformat(),
        "status": "done"
        if status == 0
        else f"not done in {session.compile_seconds:.0f} s"
        if status is None
        else "failed",
    }
    if not output.is_file():
        append(table, SPEED_FIELDS, row)
        print(log.read_text()[-2000:], flush=True)
        return
    about = json.loads(output.read_text())
    for result in about["results"]:
        append(table, SPEED_FIELDS, row | describe(about, result, session.gpu))
        row = row | {"network": f"{timing.peer} beside {timing.model}/{timing.backbone}"}


def describe(about: dict[str, Any], result: dict[str, Any], gpu: str) -> dict[str, Any]:
    """Return the columns of what `segrefine benchmark` wrote of a network."""
    rate, work = result["images_per_second"], 2 * result["multiply_adds_per_image"]
    peak = PEAKS.get(gpu) if result["precision"] == "bfloat16" else None
    low, high = result["quartiles"]
    torch = next(line for line in about["environment"].splitlines() if line.startswith("torch "))
    return {
        "batch": about["options"]["batch_size"],
        "size": "x".join(map(str, about["options"]["size"])),
        "precision": result["precision"],
        "images_per_second": f"{rate:.4g}",
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "step_MiB": round(result["memory_bytes"] / 2**20),
        "peak_MiB": round((result["memory_bytes"] + result["held_bytes"]) / 2**20),
        "multiply_adds_G": f"{result['multiply_adds_per_image'] / 1e9:.2f}",
        "TFLOP_per_second": f"{rate * work / 1e12:.4g}",
        "share_of_peak": f"{rate * work / peak:.3f}" if peak else "",
        "share_of_matmul": f"{result['share_of_matmul_rate']:.3f}",
        "torch": torch.removeprefix("torch "),
    }


# CamVid


@dataclass(frozen=True)
class Run:
    """A training, called as collect.py will call it."""

    network: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}_seed{self.seed}"

    def summary(self, session: Session) -> Path:
        """Return the file that a run writes last."""
        return session.work / "runs" / self.name / "summary.json"

    def command(self, session: Session) -> list[str]:
        words = [
            *(f"+experiment=camvid_native/{self.network}", f"seed={self.seed}", "ckpt_path=last"),
            *(f"trainer.max_epochs={session.epochs}", f"recipe.lr={session.lr}", "checkpoint_every_minutes=2"),
            f"backbone.weights={session.kit}/vgg16.safetensors",
            *(f"datamodule.root={session.kit}/camvid", f"datamodule.cache={cache_folder(session)}"),
            f"hydra.run.dir={session.work}/runs/{self.name}",
        ]
        if session.tiny:
            words += TINY_TRAIN + [TINY_WIDTHS] * self.network.startswith("refinenet")
        return [sys.executable, str(ROOT / "train.py"), *words]


def runs(session: Session) -> list[Run]:
    """All runs, seed by seed."""
    return [Run(network, seed) for seed in session.seeds for network in NETWORKS]


def cache_folder(session: Session) -> Path:
    """Return a place in memory for decoded images (CamVid: 323 MB), or on disk where there is little of it."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    return (memory if roomy else session.work) / "segrefine_camvid"


def train_all(session: Session) -> None:
    """Train what is not trained yet, several at a time, until the time is over."""
    folder, table = session.work / "runs", session.out / "runs.csv"
    waiting = [run for run in runs(session) if not run.summary(session).is_file()]
    took = {
        row["network"]: float(row["seconds"]) for row in read(table) if row["status"] == "done" and not row["resumed"]
    }
    running: dict[Run, tuple[subprocess.Popen[bytes], float, bool]] = {}
    begun = False
    while waiting or running:
        free = session.together - len(running)
        fitting = [run for run in waiting if took.get(run.network, 0) < session.left()]
        if not fitting and not begun:  # a run may take longer than any call
            fitting = waiting
        for run in fitting[:free] if session.left() > 0 else []:
            waiting.remove(run)
            resumed = (folder / run.name / "checkpoints" / "last.ckpt").is_file()
            running[run] = start(run.command(session), session.work / f"{run.name}.log"), time.monotonic(), resumed
            begun = True
        if session.left() <= 0 or not running:
            break
        time.sleep(0.2)
        for run in [run for run, (process, _, _) in running.items() if process.poll() is not None]:
            process, started, resumed = running.pop(run)
            seconds = time.monotonic() - started
            record(session, run, seconds, resumed)
            if not process.returncode and not resumed:
                took[run.network] = max(seconds, took.get(run.network, 0))
    stop([process for process, _, _ in running.values()])
    for run, (_, started, resumed) in running.items():
        if run.summary(session).is_file():  # it was finished before it was stopped
            record(session, run, time.monotonic() - started, resumed)


def record(session: Session, run: Run, seconds: float, resumed: bool) -> None:
    """Add a run's row to runs.csv and, if it ended well, its files to results.tar.gz."""
    summary = run.summary(session)
    row: dict[str, Any] = {"run": run.name, "network": run.network, "seconds": round(seconds)}
    row["resumed"] = "yes" if resumed else ""
    if summary.is_file():
        append(
            session.out / "runs.csv",
            RUN_FIELDS,
            row | {"mIoU": json.loads(summary.read_text())["mIoU"], "status": "done"},
        )
        pack_results(session)
    else:
        append(session.out / "runs.csv", RUN_FIELDS, row | {"status": "failed"})
        print((session.work / f"{run.name}.log").read_text()[-2000:], flush=True)


def pack_results(session: Session) -> None:
    """Write the small files of all finished runs to results.tar.gz, which is replaced at once."""
    part, folder = session.out / "results.part", session.work / "runs"
    with tarfile.open(part, "w:gz") as archive:
        for summary in sorted(folder.glob("*/summary.json")):
            for name in KEPT:
                if (summary.parent / name).is_file():
                    archive.add(summary.parent / name, f"runs/{summary.parent.name}/{name}")
    part.replace(session.out / "results.tar.gz")


# Processes


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command whose output is added to a file."""
    print(f"+ {' '.join(command[1:])}", flush=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)


def finish(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for a process, so long at most; returns its status, None if it had to be stopped."""
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End runs, which write a checkpoint before."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        finish(process, deadline - time.monotonic())


# Call


def parse(words: list[str], tiny: bool) -> tuple[Session, Path | None]:
    """Return the session of a command line WORK OUT [FROM] [OPTION=VALUE ...], and FROM.

    Raises:
        SystemExit: An option is unknown or has no such value.
    """
    options = dict(word.split("=", 1) for word in words if "=" in word)
    work, out, *before = [Path(word).resolve() for word in words if "=" not in word]
    types: dict[str, Callable[[str], Any]] = {
        each.name: each.type  # type: ignore[misc]
        for each in fields(Session)
        if each.type in (int, float) and each.name != "began"
    }
    if unknown := sorted(options.keys() - types.keys()):
        sys.exit(f"{', '.join(unknown)}: no such option. There are {', '.join(types)}.")
    try:
        values = {name: types[name](value) for name, value in options.items()}
    except ValueError as error:
        sys.exit(f"An option should be a number: {error}.")
    defaults: dict[str, Any] = {"epochs": 2, "together": 1} if tiny else {}
    return Session(kit=work / "kit", work=work, out=out, tiny=tiny, **defaults | values), before[0] if before else None


def find_gpu(tiny: bool) -> str:
    """Return the GPU's name.

    Raises:
        SystemExit: There is none.
    """
    import torch

    if tiny:
        return "none"
    if not torch.cuda.is_available():
        sys.exit(
            "PyTorch finds no CUDA device here. Run this on a machine with a GPU, or with TINY=1 to try it on a CPU."
        )
    return torch.cuda.get_device_name()


def carry_on(session: Session, before: Path | None) -> None:
    """Take what an earlier call left in `before`, or in OUT, as done."""
    session.out.mkdir(parents=True, exist_ok=True)
    (session.work / "runs").mkdir(parents=True, exist_ok=True)
    if before and not before.is_dir():
        sys.exit(f"{before} is not there: FROM should be the OUT of an earlier call.")
    for name in ("speed.csv", "runs.csv", "results.tar.gz"):
        if before and (before / name).is_file() and not (session.out / name).is_file():
            shutil.copyfile(before / name, session.out / name)
    if (session.out / "results.tar.gz").is_file():
        with tarfile.open(session.out / "results.tar.gz") as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
            archive.extractall(session.work)


def call(words: list[str]) -> None:
    """Do what is left to do."""
    session, before = parse(words, bool(os.environ.get("TINY")))
    session.gpu = find_gpu(session.tiny)
    carry_on(session, before)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(session.work / "inductor")
    os.environ.setdefault("OMP_NUM_THREADS", "1" if session.tiny else "4")
    measure_speed(session)
    train_all(session)
    everything = runs(session)
    left = [run.name for run in everything if not run.summary(session).is_file()]
    print(f"{len(everything) - len(left)} of {len(everything)} runs are done after {session.elapsed():.0f} s.")
    print(f"Left: {', '.join(left)}. Call again, with FROM={session.out}." if left else "Nothing is left.")


def main() -> None:
    command, *words = sys.argv[1:] or [""]
    if command == "requirements":
        print(*[str(each) for each in gpu_kit.requirements() if each.name in words], sep="\n")
    elif command == "pack" and len(words) == 3:
        gpu_kit.pack(*map(Path, words))
    elif command == "unpack":
        gpu_kit.unpack(*map(Path, words))
    elif command == "missing":
        for wheel in gpu_kit.missing(Path(words[0])):
            print(wheel)
    elif command == "run" and len(words) >= 2:
        call(words)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
