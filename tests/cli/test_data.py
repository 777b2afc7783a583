"""`segrefine data`: every bad file is named, and what is written is the input of the next command."""

from pathlib import Path

import numpy as np
import pytest
from builders import make, saved_pair
from conftest import TypeIn
from PIL import Image

from segrefine.core.config import list_names
from segrefine.data.sets.shapes import ShapesDataModule


def bad_lines(report: str) -> list[str]:
    return [line for line in report.splitlines() if line.startswith("  BAD")]


def test_every_bad_file_is_reported(tmp_path: Path, type_in: TypeIn) -> None:
    image, mask = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    mask[0] = 1
    mask[1] = 255
    for split in ("train", "val"):
        for stem in ("good", "small", "strange", "broken"):
            saved_pair(tmp_path, split, stem, image, mask)
    arguments = ["check", "datamodule=folder", "datamodule.root=.", "datamodule.classes=[sky,ground]"]
    result = type_in("segrefine.data", *arguments)
    assert result.returncode == 0, result.stderr
    for expected in ("4x5 (4)", "void: 25.00%", "0 sky", "66.667%"):
        assert expected in result.stdout

    saved_pair(tmp_path, "train", "small", image[:-1], mask)
    saved_pair(tmp_path, "train", "strange", image, mask + 5)
    (tmp_path / "images" / "train" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "masks" / "val" / "good.png").unlink()
    result = type_in("segrefine.data", *arguments)
    assert result.returncode == 1
    assert "bad files: 3" in result.stdout
    for name in ("small.png", "strange.png", "broken.png", "good.*"):
        assert sum(name in line for line in bad_lines(result.stdout)) == 1


def plant_ten_faults(root: Path, split: str) -> None:
    """One of each kind, in the first ten of 14 examples, which are called after the split."""
    rng = np.random.default_rng(0)
    for index in range(14):
        image, mask = rng.integers(0, 255, (24, 32, 3), np.uint8), rng.integers(0, 3, (24, 32), np.uint8)
        saved_pair(root, split, f"{split} {index:02d}", image, mask)
    images = [root / "images" / split / f"{split} {index:02d}.png" for index in range(14)]
    masks = [root / "masks" / split / path.name for path in images]
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].write_bytes(b"")
    images[2].unlink()
    Image.fromarray(rng.integers(0, 255, (32, 24, 3), np.uint8)).save(images[3])
    masks[4].unlink()
    masks[5].write_bytes(b"no picture")
    Image.fromarray(np.full((24, 32), 3, np.uint8)).save(masks[6])
    Image.fromarray(rng.integers(0, 3, (24, 31), np.uint8)).save(masks[7])
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(masks[8])
    Image.fromarray(rng.random((24, 32), np.float32)).save(masks[9].with_suffix(".tif"))
    masks[9].unlink()


def test_twenty_planted_faults_are_found_and_then_excluded(tmp_path: Path, type_in: TypeIn) -> None:
    """Ten kinds of them, each in train and in val, among good files; every one by name and nothing else."""
    for split in ("train", "val"):
        plant_ten_faults(tmp_path, split)
    planted = [f"{split} {index:02d}" for split in ("train", "val") for index in range(10)]
    arguments = ["check", "datamodule=folder", "datamodule.root=.", "datamodule.classes=[a,b,c]"]
    result = type_in("segrefine.data", *arguments, "write_exclude=bad.txt")
    assert result.returncode == 1
    assert len(bad_lines(result.stdout)) == len(planted) == 20
    for name in planted:
        assert sum(name in line for line in bad_lines(result.stdout)) == 1, name

    lines = (tmp_path / "bad.txt").read_text().splitlines()[1:]
    assert [line.partition("  # ")[0] for line in lines] == [f"{name.split()[0]} {name}" for name in planted]
    result = type_in("segrefine.data", *arguments, "datamodule.exclude=bad.txt")
    assert result.returncode == 0, result.stdout
    assert "train: 4 good images" in result.stdout
    assert result.stderr.count("datamodule.exclude=bad.txt skips 10 of train, 10 of val, 0 of test") == 1
    for option in ("write_exclude=bad.txt", "write_exclude=new.txt"):  # is taken; would lack what is excluded now
        refused = type_in("segrefine.data", *arguments, "datamodule.exclude=bad.txt", option)
        assert refused.returncode == 2
        assert "lists every bad example in a new file" in refused.stderr
    assert (tmp_path / "bad.txt").read_text().splitlines()[1:] == lines


def test_without_bad_files_there_is_no_list_of_them(tmp_path: Path, type_in: TypeIn) -> None:
    result = type_in("segrefine.data", "check", "write_exclude=bad.txt", "datamodule.train_size=2")
    assert result.returncode == 0
    assert "datamodule.exclude" not in result.stdout
    assert not (tmp_path / "bad.txt").exists()


def test_classes_that_are_counted_do_not_hide_bad_masks(tmp_path: Path, type_in: TypeIn) -> None:
    image, mask = np.zeros((4, 5, 3), np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5) % 3
    for split in ("train", "val"):
        for stem in ("a", "b"):
            saved_pair(tmp_path, split, stem, image, mask)
    (tmp_path / "masks/val/b.png").write_bytes(b"no picture")
    result = type_in("segrefine.data", "check", "datamodule=folder", "datamodule.root=.", "write_exclude=bad.txt")
    assert result.returncode == 1
    assert [line.split("/")[-1].split()[0] for line in bad_lines(result.stdout)] == ["b.png"]
    assert "2 class 2" in result.stdout
    assert "val b  # " in (tmp_path / "bad.txt").read_text()


def test_a_picture_is_shown(tmp_path: Path, type_in: TypeIn) -> None:
    options = ["output=new/sheet.png", "split=val", "count=3", "datamodule.val_size=5"]
    result = type_in("segrefine.data", "show", *options)
    assert result.returncode == 0, result.stderr
    assert "3 of 5 images of val" in result.stdout
    sheet = np.asarray(Image.open(tmp_path / "new/sheet.png"))
    colors = {tuple(color) for color in np.unique(sheet.reshape(-1, 3), axis=0).tolist()}
    scenes = make(ShapesDataModule, val_size=5)
    for index in (0, 1, 3):
        labels = scenes.dataset("val").read(index)[1].unique()
        assert {tuple(scenes.palette[label].tolist()) for label in labels} <= colors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "Give output=FILE.png"),
        (["show", "output=x.foo"], "output=x.foo should end in one of .jpg, .jpeg, .png"),
        (["show", "output=x.png", "split=vall"], "Did you mean 'val'"),
        (["show", "output=x.png", "count=0"], "count=0 should be"),
        (["show", "output=x.png", "count=few"], "count=few should be"),
        (["show", "output=x.png", "datamodule=ade20k", "datamodule.root=.", "split=test"], "no labels for split=test"),
        (["chek"], "Did you mean 'check'"),
        (["datamodule=camvid"], "Name the command first: segrefine data check"),
        (["check", "datamodule=camvd"], "Did you mean 'camvid'"),
        (["check", "datamodule=camvid"], "datamodule.root"),
        (["check", "datamodule.batch_size=0"], "batch_size=0"),
        (["check", "datamodule=camvid", "datamodule.fold=0"], "Give both datamodule.fold and datamodule.folds"),
        (
            ["check", "datamodule=camvid", "datamodule.folds=4", "write_exclude=x"],
            "Remove datamodule.fold and folds",
        ),
        (["check", "datamodule.fold=0"], "datamodule.fold is not an option of datamodule=shapes"),
        (["check", "datamodule.rot=x"], "datamodule.rot"),
        (["check", "datamodule=folder", "datamodule.on_error=skip"], "segrefine data check write_exclude=FILE, then"),
    ],
)
def test_mistakes_get_one_message(arguments: list[str], message: str, type_in: TypeIn) -> None:
    result = type_in("segrefine.data", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_names_every_data_set(type_in: TypeIn) -> None:
    result = type_in("segrefine.data")
    assert result.returncode == 0
    assert [name for name in list_names("datamodule") if name not in result.stdout] == []
