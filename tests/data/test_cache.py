"""Decoded examples in a folder: what is read from there is what was decoded, until a file changes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make
from PIL import Image

from segrefine.core.errors import UserError
from segrefine.data.cache import Cache
from segrefine.data.sets.folder import FolderDataModule


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, shape, end in (("images", (33, 47, 3), 256), ("masks", (33, 47), 3)):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for name in "ab":
                Image.fromarray(rng.integers(0, end, shape, np.uint8)).save(folder / f"{name}.png")
    return tmp_path


def folder(data: Path, cache: Path | None, **options: object) -> FolderDataModule:
    augment = {"scale": [0.5, 2.0], "flip": True}
    given: dict = {"classes": ["a", "b", "c"], "crop_size": [20, 30], "augment": augment} | options
    return make(FolderDataModule, root=str(data), cache=None if cache is None else str(cache), **given)


def test_what_is_read_is_what_was_decoded(data: Path, tmp_path: Path) -> None:
    plain, cached = folder(data, None), folder(data, tmp_path / "cache")
    for _ in range(3):  # decoded, then from the cache
        for index in range(2):
            items = []
            for datamodule in (plain, cached):
                torch.manual_seed(index)
                items.append(datamodule.dataset("train", datamodule.train_transform)[index])
            assert torch.equal(items[0]["image"], items[1]["image"])
            assert torch.equal(items[0]["label"], items[1]["label"])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    image, _ = cached.dataset("train").read(0)
    image.zero_()  # a transform that writes in place must not reach the file
    assert torch.equal(cached.dataset("train").read(0)[0], plain.dataset("train").read(0)[0])


def test_from_the_cache_nothing_is_decoded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = folder(data, tmp_path / "cache").dataset("train")
    first = dataset.read(1)
    monkeypatch.setattr("segrefine.data.files.read_channels", None)
    for before, now in zip(first, dataset.read(1), strict=True):
        assert torch.equal(before, now)


def test_a_changed_file_is_decoded_anew(data: Path, tmp_path: Path) -> None:
    dataset = folder(data, tmp_path / "cache").dataset("train")
    dataset.read(0)
    Image.fromarray(np.full((33, 47), 2, np.uint8)).save(data / "masks/train/a.png")
    assert (dataset.read(0)[1] == 2).all()
    mapped = folder(data, tmp_path / "cache", label_map={0: 1, 1: 0, 2: 255}).dataset("train")
    assert (mapped.read(0)[1] == 255).all()


def test_a_file_of_the_same_size_that_changed_is_decoded_anew(data: Path, tmp_path: Path) -> None:
    dataset = folder(data, tmp_path / "cache").dataset("train")
    mask = data / "masks/train/a.png"
    for number in (0, 1):
        Image.fromarray(np.full((33, 47), number, np.uint8)).save(mask.with_suffix(".bmp"), "BMP")
        mask.write_bytes(mask.with_suffix(".bmp").read_bytes())
        mask.with_suffix(".bmp").unlink()
        os.utime(mask, ns=(number * 10**9, number * 10**9))
        assert (dataset.read(0)[1] == number).all()


@pytest.mark.parametrize("damage", [b"", b"12", b"\1\0\0\0\1\0\0\0"])
def test_a_damaged_entry_is_written_anew(damage: bytes, data: Path, tmp_path: Path) -> None:
    dataset = folder(data, tmp_path / "cache").dataset("train")
    expected = dataset.read(0)
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    for content in (damage, whole[:-1]):
        entry.write_bytes(content)
        for before, now in zip(expected, dataset.read(0), strict=True):
            assert torch.equal(before, now)
        assert entry.read_bytes() == whole


def test_a_missing_file_is_named_and_so_is_a_cache_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    dataset = folder(data, tmp_path / "cache").dataset("train")
    (data / "images/train/b.png").unlink()
    with pytest.raises(UserError, match=r"There is no file .*b\.png"):
        dataset.read(1)
    (tmp_path / "occupied").touch()
    with pytest.raises(UserError, match=r"datamodule\.cache=.*occupied cannot be written"):
        folder(data, tmp_path / "occupied").dataset("train").read(0)
    with pytest.raises(UserError, match="cannot be written"):
        Cache(tmp_path / "occupied", b"").get((), lambda: (torch.zeros(3, 1, 1), torch.zeros(1, 1)))
