"""Faults of the machine: one message that says what to do, in place of a traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TypeIn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from segrefine.cli.failures import explain_failure

CHECKOUT = Path(__file__).parents[2]
TINY = "trainer=debug logger=none model=fcn32s model.upsample=interpolate datamodule.train_size=2 datamodule.val_size=1"
TINY += " datamodule.test_size=1 datamodule.batch_size=2 datamodule.eval_batch_size=1"


def oserror(number: int) -> OSError:
    return OSError(number, os.strerror(number), "runs/x")


# The texts are those that PyTorch 2.15 and Linux gave when the faults were made to happen.
KILLED = "DataLoader worker (pid 4711) is killed by signal: Killed. "
BUS = (
    "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
WORKER = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback:\nOSError: [Errno 24] Too many open files"


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (ValueError("Expected more than 1 value per channel when training"), "one value per channel", "batch_size"),
        (MisconfigurationException("Try `limit_val_batches=0.2`"), "Try `limit_val_batches=0.2`", ""),
        (oserror(errno.ENOSPC), r"The disk is full \(.*'runs/x'\)", "Free space"),
        (oserror(errno.EDQUOT), "The disk is full", "Free space"),
        (oserror(errno.EROFS), "cannot be read or written", "hydra.run.dir=FOLDER"),
        (oserror(errno.EACCES), "cannot be read or written", "hydra.run.dir=FOLDER"),
        (oserror(errno.EMFILE), "Too many files are open", "ulimit -n"),
        (OSError(WORKER), r"Too many files are open \(OSError: \[Errno 24\]", "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "Too many files are open", "num_workers"),
        (RuntimeError(KILLED), "A process that reads data died", "num_workers"),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "reads data died", "num_workers"),
        (RuntimeError(BUS), "The shared memory is full", "--shm-size"),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
            "shared memory",
            "shm-size",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0"),
            "The disk is full",
            "Free",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "The memory ran out", "batch_size"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "The memory ran out", "batch_"),
        (MemoryError(), "The memory ran out", "batch_size"),
        (
            RuntimeError("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set"),
            "no deterministic form",
            "deterministic=false",
        ),
        (
            RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one."),
            "gets no gradient",
            "ddp_find_unused_parameters_true",
        ),
    ],
)
def test_a_fault_is_told_with_its_remedy(error: Exception, what: str, remedy: str) -> None:
    explained = explain_failure(error)
    assert explained is not None
    with pytest.raises(type(explained), match=what):
        raise explained
    assert remedy in str(explained)
    assert "\n" not in str(explained)
    outer = RuntimeError("something went wrong")
    outer.__context__ = error
    assert str(explain_failure(outer)) == str(explained)


@pytest.mark.parametrize(
    "error", [ValueError("No space left on device"), KeyError(28), RuntimeError("a bug"), OSError()]
)
def test_a_bug_is_no_fault_of_the_machine(error: Exception) -> None:
    assert explain_failure(error) is None


class Deadly(Dataset[int]):
    """An item that ends the process that reads it as the system's out-of-memory killer does."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Deadly(), num_workers=1)))
    assert "want of memory (DataLoader worker (pid" in str(explain_failure(caught.value))


def test_a_full_disk_ends_a_command_with_one_message(type_in: TypeIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(checkpoint: object, file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    result = type_in("train.py", *TINY.split(), "hydra.run.dir=run")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "The disk is full" in errors[0]
    assert "run/checkpoints/best.ckpt" in errors[0]
    assert "Traceback" not in result.stderr


def test_a_bug_still_shows_its_traceback(type_in: TypeIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(checkpoint: object, file: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        type_in("train.py", *TINY.split(), "hydra.run.dir=run")


def test_a_run_folder_that_cannot_be_made_is_told(type_in: TypeIn, tmp_path: Path) -> None:
    """A file stands where the folder's parent should: no right that root would not have."""
    (tmp_path / "file").touch()
    result = type_in("train.py", *TINY.split(), "hydra.run.dir=file/run")
    assert result.returncode == 2
    assert result.stderr.startswith("error: A file or folder cannot be read or written ([Errno 20] Not a directory")
    assert len(result.stderr.splitlines()) == 1


OPEN_FILES = """
import resource
import segrefine.engine.train  # before the limit, since importing opens files too
from segrefine.cli.command import run_command
from segrefine.cli.train import Options

def task(cfg, folder):
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    segrefine.engine.train.train(cfg, folder)

run_command("train", task, Options)
"""


@pytest.mark.slow
def test_too_many_open_files_are_told(tmp_path: Path) -> None:
    options = [*TINY.split(), "datamodule.num_workers=8", "hydra.run.dir=run"]
    words = [sys.executable, "-c", OPEN_FILES, *options]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 2, result.stderr
    assert "error: Too many files are open" in result.stderr
    assert "ulimit -n" in result.stderr
    assert "Traceback" not in result.stderr
