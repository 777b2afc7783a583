"""Checkpoints on disk, interrupted and damaged."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from segrefine.cli.failures import explain_failure
from segrefine.core.errors import UserError
from segrefine.engine.checkpoint_io import WholeCheckpointIO, previous
from segrefine.engine.resume import find_checkpoint
from segrefine.runs.folder import RunFolder


def step(path: Path) -> int:
    return torch.load(path, weights_only=True)["step"]


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)

    def cut(checkpoint: object, part: BinaryIO) -> None:
        part.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match=r"No space.*last\.ckpt"):
        WholeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert step(path) == 1


def test_the_one_before_the_last_is_kept_and_found(tmp_path: Path) -> None:
    last, best = (tmp_path / "checkpoints" / f"{stem}.ckpt" for stem in ("last", "best"))
    for number in (1, 2, 3):
        for path in (last, best):
            WholeCheckpointIO().save_checkpoint({"step": number, "state_dict": {"w": torch.zeros(1)}}, path)
    assert (step(last), step(previous(last)), step(best)) == (3, 2, 3)
    assert not previous(best).exists()

    def found() -> Path:
        checkpoint = find_checkpoint("last", RunFolder(tmp_path))
        assert checkpoint is not None
        return checkpoint.path

    assert found() == last
    content = last.read_bytes()
    for damage in (b"", content[:100], b"\0" * len(content)):
        last.write_bytes(damage)
        assert found() == previous(last)
    previous(last).unlink()
    with pytest.raises(UserError, match=r"last\.ckpt"):
        found()


def save_in_little_room(path: Path, told: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        WholeCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, path)
    except OSError as error:
        told.send((error.errno, str(explain_failure(error))))


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of a file stands in for a full disk: the write fails half-way, within PyTorch."""
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1, "weights": torch.zeros(10)}, path)
    fork = multiprocessing.get_context("fork")  # a new interpreter takes seconds to import everything
    reader, writer = fork.Pipe(duplex=False)
    child = fork.Process(target=save_in_little_room, args=(path, writer))
    child.start()
    assert reader.poll(60)
    number, message = reader.recv()
    child.join()
    assert number == 27  # EFBIG
    assert message.startswith(f"The disk is full ([Errno 27] File too large: '{path}').")
    assert step(path) == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]
