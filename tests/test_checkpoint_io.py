"""Checkpoints on disk, interrupted and damaged."""

from pathlib import Path

import pytest
import torch

from segrefine.checkpoint_io import WholeCheckpointIO, previous, readable
from segrefine.errors import UserError


def step(path: Path) -> int:
    return torch.load(path, weights_only=True)["step"]


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)

    def cut(checkpoint: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="No space"):
        WholeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert step(path) == 1


def test_the_one_before_the_last_is_kept_and_found(tmp_path: Path) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    for number in (1, 2, 3):
        for path in (last, best):
            WholeCheckpointIO().save_checkpoint({"step": number}, path)
    assert (step(last), step(previous(last)), step(best)) == (3, 2, 3)
    assert not previous(best).exists()
    assert readable(last) == last
    content = last.read_bytes()
    for damage in (b"", content[:100], b"\0" * len(content)):
        last.write_bytes(damage)
        assert readable(last) == previous(last)
    previous(last).unlink()
    with pytest.raises(UserError, match=r"last\.ckpt"):
        readable(last)
