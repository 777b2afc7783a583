"""`datamodule.in_channels`: what is read from which file, what is refused in words, and what augmentation touches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make, saved_pair
from PIL import Image
from torch import Tensor

from segrefine.core.channels import spread
from segrefine.core.errors import UserError
from segrefine.data.check import check, render
from segrefine.data.sets.folder import FolderDataModule
from segrefine.data.transforms import Augmentation, TrainTransform, color_jitter, pad
from segrefine.models.encoders.base import MEAN, STD

SIZE = (33, 47)
KINDS: dict[int, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    1: (SIZE, None),
    3: ((*SIZE, 3), None),
    4: ((*SIZE, 3), SIZE),
    6: ((*SIZE, 3), (*SIZE, 3)),
}
"""The shape of the image and of what is behind it, by the number of channels."""


def pixels(shape: tuple[int, ...] | None, seed: int) -> Any:
    return None if shape is None else np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write(root: Path, in_channels: int) -> None:
    """Two images each of train and val, whose masks have three classes."""
    image, extra = KINDS[in_channels]
    for place, (split, stem) in enumerate((split, stem) for split in ("train", "val") for stem in "ab"):
        mask = np.random.default_rng(place).integers(0, 3, SIZE, np.uint8)
        saved_pair(root, split, stem, pixels(image, place), mask, pixels(extra, 10 + place))


def data(root: Path, in_channels: int, **options: Any) -> FolderDataModule:
    given = {"classes": ["a", "b", "c"], "batch_size": 2} | options
    return make(FolderDataModule, root=str(root), in_channels=in_channels, **given)


def stacked(in_channels: int, place: int) -> Tensor:
    """What the files of `write` hold, (in_channels, H, W)."""
    image, extra = KINDS[in_channels]
    arrays = [pixels(image, place), pixels(extra, 10 + place)]
    channels = [array.reshape(*SIZE, -1).transpose(2, 0, 1) for array in arrays if array is not None]
    return torch.from_numpy(np.concatenate(channels))


@pytest.mark.parametrize("in_channels", KINDS)
def test_channels_come_from_the_files_in_order(in_channels: int, tmp_path: Path) -> None:
    write(tmp_path, in_channels)
    datamodule = data(tmp_path, in_channels)
    datamodule.setup()
    for place, split in ((0, "train"), (2, "val")):
        for index in range(2):
            assert torch.equal(datamodule.dataset(split).read(index)[0], stacked(in_channels, place + index))
    (batch,) = datamodule.train_dataloader()
    assert batch["image"].shape == (2, in_channels, *SIZE)
    reports = check(datamodule)
    assert [len(report.bad) for report in reports] == [0, 0]
    assert "33x47 (2)" in render(reports, datamodule.classes)


def test_list_files_name_the_third_file(tmp_path: Path) -> None:
    write(tmp_path, 4)
    lines = [f"images/train/{name}.png masks/train/{name}.png extra/train/{name}.png" for name in "ba"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    listed = data(tmp_path, 4, train_list="train.txt", val_list="train.txt")
    assert torch.equal(listed.dataset("train").read(0)[0], stacked(4, 1))
    (tmp_path / "train.txt").write_text("images/train/a.png masks/train/a.png")
    with pytest.raises(UserError, match='line 1: expected "image mask extra", three paths without spaces'):
        data(tmp_path, 4, train_list="train.txt").dataset("train")
    assert data(tmp_path, 3, train_list="train.txt").dataset("train").read(0)[0].shape == (3, *SIZE)


def test_folds_keep_the_channels_of_each_image(tmp_path: Path) -> None:
    write(tmp_path, 4)
    fold = data(tmp_path, 4, fold=0, folds=2)
    read = [fold.dataset(split).read(index)[0] for split in ("train", "val") for index in range(2)]
    key = sorted(image.tolist() for image in read)
    assert key == sorted(stacked(4, place).tolist() for place in range(4))


def as_png(array: np.ndarray, path: Path, mode: str | None = None) -> None:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


GRAY, COLOR = pixels(SIZE, 5), pixels((*SIZE, 3), 5)


@pytest.mark.parametrize(
    ("in_channels", "file", "array", "mode", "message"),
    [
        (1, "images", COLOR, None, r"has 3 channels, but datamodule.in_channels=1 takes 1 there \(gray\)"),
        (1, "images", COLOR, "P", "has 3 channels, but datamodule.in_channels=1"),
        (1, "images", COLOR, "RGBA", "has 4 channels, but datamodule.in_channels=1"),
        (
            4,
            "extra",
            COLOR,
            None,
            r"3 channels, but datamodule.in_channels=4 takes 1 there \(gray behind red, green",
        ),
        (4, "extra", GRAY, "LA", "has 2 channels, but datamodule.in_channels=4 takes 1"),
        (6, "extra", GRAY, None, r"has 1 channel, but datamodule.in_channels=6 takes 3 there \(color behind"),
        (6, "extra", COLOR, "RGBA", "has 4 channels, but datamodule.in_channels=6 takes 3"),
        (
            4,
            "extra",
            GRAY.astype(np.uint16) * 20,
            None,
            "more than 8 bits. datamodule.in_channels=4 takes 8.*Save it",
        ),
        (4, "extra", GRAY[1:], None, r"is \(32, 47\) \(height, width\), but its image .*images.*a.png is \(33, 47\)"),
    ],
)
def test_one_message_names_file_count_and_option(
    in_channels: int, file: str, array: np.ndarray, mode: str | None, message: str, tmp_path: Path
) -> None:
    """From the header when training begins, from the pixels when they are read, and in the report on the data."""
    write(tmp_path, in_channels)
    as_png(array, tmp_path / file / "train" / "a.png", mode)
    datamodule = data(tmp_path, in_channels)
    said = rf"{file}.train.a\.png.*{message}"
    with pytest.raises(UserError, match=said):
        datamodule.setup("fit")
    with pytest.raises(UserError, match=said):
        datamodule.dataset("train").read(0)
    assert datamodule.dataset("train").read(1)[0].shape[0] == in_channels
    bad = check(datamodule)[0].bad
    assert list(bad) == ["a"]
    assert str(tmp_path / file / "train" / "a.png") in bad["a"]


def test_gray_images_of_any_depth_are_read_as_gray(tmp_path: Path) -> None:
    write(tmp_path, 1)
    as_png(GRAY.astype(np.uint16) * 257, tmp_path / "images/train/a.png")
    as_png(GRAY, tmp_path / "images/train/b.png", "1")
    dataset = data(tmp_path, 1).dataset("train")
    assert torch.equal(dataset.read(0)[0][0], torch.from_numpy(GRAY))
    assert set(dataset.read(1)[0].unique().tolist()) == {0, 255}


def test_images_with_an_exif_turn_and_what_is_behind_them_meet_upright(tmp_path: Path) -> None:
    write(tmp_path, 4)
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(pixels((47, 33, 3), 1)).save(tmp_path / "images/train/a.png", exif=exif)
    datamodule = data(tmp_path, 4)
    datamodule.setup("fit")
    image = datamodule.dataset("train").read(0)[0]
    assert torch.equal(image[3], stacked(4, 0)[3])
    assert torch.equal(image[:3], torch.from_numpy(np.rot90(pixels((47, 33, 3), 1), -1).copy()).permute(2, 0, 1))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path, 6)
    (tmp_path / "extra/train/a.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 6 images and labels are missing: .*extra.train.a\.\*"):
        data(tmp_path, 6).setup("fit")
    assert list(check(data(tmp_path, 6))[0].bad) == ["a"]
    (tmp_path / "extra/val").rename(tmp_path / "extra/other")
    with pytest.raises(UserError, match=r"in_channels=6: there is no folder .*extra.val. It should hold a color image"):
        data(tmp_path, 6).dataset("val")
    with pytest.raises(UserError, match=r"datamodule.in_channels=5 should be 1, 3, 4 or 6"):
        data(tmp_path, 5)


def test_a_cache_serves_every_number_of_channels(tmp_path: Path) -> None:
    write(tmp_path, 4)
    for in_channels in (4, 3, 4, 3):
        dataset = data(tmp_path, in_channels, cache=str(tmp_path / "cache")).dataset("train")
        for index in range(2):
            assert torch.equal(dataset.read(index)[0], stacked(4, index)[:in_channels])
    assert len(list((tmp_path / "cache").iterdir())) == 4
    as_png(GRAY, tmp_path / "extra/train/a.png")
    fresh = data(tmp_path, 4, cache=str(tmp_path / "cache")).dataset("train").read(0)[0]
    assert torch.equal(fresh[3], torch.from_numpy(GRAY))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_jitter_changes_colors_alone(count: int) -> None:
    image = torch.randint(0, 256, (count, 21, 33), dtype=torch.uint8)
    colors = 3 if count >= 3 else 1
    torch.manual_seed(7)
    found = color_jitter(image, 0.5)
    torch.manual_seed(7)
    assert torch.equal(found[:colors], color_jitter(image[:colors], 0.5))
    assert not torch.equal(found[:colors], image[:colors])
    assert torch.equal(found[colors:], image[colors:])


def test_scale_crop_and_flip_move_all_channels_alike() -> None:
    rgb, label = torch.randint(0, 256, (3, 41, 53), dtype=torch.uint8), torch.zeros(41, 53, dtype=torch.uint8)
    transform = TrainTransform((32, 64), Augmentation(scale=[0.5, 2.0], flip=True))
    for seed in range(8):
        torch.manual_seed(seed)
        image, _ = transform(torch.cat([rgb, rgb]), label)
        torch.manual_seed(seed)
        assert torch.equal(image[:3], transform(rgb, label)[0])
        assert torch.equal(image[:3], image[3:])


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_padding_is_zero_once_normalized(count: int) -> None:
    image, _ = pad(torch.ones(count, 3, 5, dtype=torch.uint8), torch.ones(3, 5, dtype=torch.uint8), (6, 8))
    assert (image[:, :3, :5] == 1).all()
    mean, std = torch.tensor(spread(MEAN, count)), torch.tensor(spread(STD, count))
    assert ((image[:, -1, -1] / 255 - mean) / std).abs().max() < 0.5 / 255 / 0.224 + 1e-3
