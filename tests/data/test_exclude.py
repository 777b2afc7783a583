"""Bad files stop an epoch by name; `datamodule.exclude` skips them as if they were not there."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from builders import make, saved_pair
from conftest import TypeIn
from PIL import Image

from segrefine.core.errors import BadFileError, UserError
from segrefine.data.exclude import read_exclude, write_exclude
from segrefine.data.sets.camvid import CamVidDataModule
from segrefine.data.sets.folder import FolderDataModule

pytestmark = pytest.mark.usefixtures("narrow")

IMAGES = 12
BAD = 4  # not among the eight labels that are read before training
SIZE = (40, 48)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for index in range(IMAGES):
            image = picture(index)
            saved_pair(tmp_path / "data", split, f"{index:02d}", image, image[..., 0] % 3)
    return tmp_path / "data"


def truncate(image: Path, mask: Path) -> None:
    Image.fromarray(picture()).save(image, format="JPEG")
    image.write_bytes(image.read_bytes()[:700])


FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "truncated JPEG": (truncate, "images/val/04.png cannot be read"),
    "zero bytes": (lambda image, mask: image.write_bytes(b""), "images/val/04.png is not an image file that Pillow"),
    "other size": (lambda image, mask: Image.fromarray(picture()[:31, :30]).save(image), r"04.png is \(31, 30\)"),
    "value": (lambda image, mask: Image.fromarray(np.full(SIZE, 7, np.uint8)).save(mask), "04.png holds label value 7"),
    "vanished": (lambda image, mask: mask.unlink(), "There is no file .*masks/val/04"),
    "color mask": (lambda image, mask: Image.fromarray(picture()).save(mask), "masks/val/04.png is a color picture"),
}


def spoil(data: Path, fault: str, split: str, index: int = BAD) -> None:
    FAULTS[fault][0](*(data / kind / split / f"{index:02d}.png" for kind in ("images", "masks")))


def folder(data: Path, **options: object) -> FolderDataModule:
    given = {"classes": ["a", "b", "c"], "crop_size": 32, "batch_size": 2, "num_workers": 0} | options
    return make(FolderDataModule, root=str(data), **given)


def excluding(data: Path, text: str, **options: object) -> FolderDataModule:
    (data / "exclude.txt").write_text(text)
    return folder(data, exclude=str(data / "exclude.txt"), **options)


def complaint(loader: Iterable) -> str:
    """The message with which reading ends. PyTorch leaves the error and the loader in a cycle of references, and a
    loader that Python finds in one waits 20 s for its processes to end, so the cycle is broken here."""
    try:
        list(loader)
    except BadFileError as error:
        error.__traceback__ = None
        return str(error)
    raise AssertionError("all was read")


@pytest.mark.parametrize(("fault", "workers"), [*((fault, 0) for fault in FAULTS), ("value", 2)])
def test_a_bad_file_stops_the_epoch_by_name(fault: str, workers: int, data: Path) -> None:
    loader = folder(data, num_workers=workers).val_dataloader()
    spoil(data, fault, "val")
    message = complaint(loader)
    assert re.search(FAULTS[fault][1], message)
    assert "\n" not in message  # no traceback of a worker


def test_excluded_examples_are_not_looked_at(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for split, index in (("train", 4), ("val", 0), ("val", 11)):
        spoil(data, "zero bytes", split, index)
    (data / "masks/val/11.png").write_bytes(b"")
    text = "\ufeff# by hand\n\nval 00  # zero bytes\r\nval 11\ntrain 04  # x  # y"
    datamodule = excluding(data, text, eval_batch_size=3, classes=None)
    datamodule.setup("fit")
    assert caplog.text.count("skips 1 of train, 2 of val, 0 of test") == 1
    assert datamodule.num_classes == 3
    assert datamodule.image_size("val") == SIZE
    batches = list(datamodule.val_dataloader())
    assert [name for batch in batches for name in batch["id"]] == [f"{index:02d}" for index in range(1, 11)]
    assert [index for batch in batches for index in batch["index"].tolist()] == list(range(10))
    expected = [np.asarray(Image.open(data / f"masks/train/{index:02d}.png")) for index in range(IMAGES) if index != 4]
    assert datamodule.histograms.sum(0).tolist() == np.bincount(np.stack(expected).ravel()).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val 4", r"exclude\.txt: val has no example '4'\. The nearest id is '\d+'"),
        ("val 00\nval 04.png  # seen", r"exclude\.txt: val has no example '04\.png'\. The nearest id is '04'"),
        ("val 00\nvla 04", r"exclude\.txt, line 2: expected a split and an id, such as 'val 0004', not 'vla 04'"),
        ("04", r"exclude\.txt, line 1: expected a split and an id"),
        ("val ", r"exclude\.txt, line 1: expected a split and an id"),
        ("\n".join(f"val {index:02d}" for index in range(IMAGES)), r"excludes every image of val: it names all 12"),
    ],
)
def test_a_line_that_fits_nothing_is_refused(text: str, message: str, data: Path) -> None:
    with pytest.raises(UserError, match=message):
        excluding(data, text).setup("fit")


def test_a_missing_file_is_named(data: Path) -> None:
    with pytest.raises(UserError, match=r"exclude=.*gone\.txt: there is no such file.*write_exclude=FILE"):
        folder(data, exclude=str(data / "gone.txt")).setup("fit")


def test_a_list_may_name_files_that_are_gone(data: Path) -> None:
    spoil(data, "vanished", "val")
    for split in ("train", "val"):
        lines = [f"images/{split}/{index:02d}.png masks/{split}/{index:02d}.png" for index in range(IMAGES)]
        (data / f"{split}.txt").write_text("\n".join(lines))
    lists = {"train_list": "train.txt", "val_list": "val.txt"}
    with pytest.raises(UserError, match=r"1 of the 24 images and labels are missing: .*masks/val/04\.png"):
        folder(data, **lists).setup("fit")
    datamodule = excluding(data, "val images/val/04", **lists)
    datamodule.setup("fit")
    assert sum(len(batch["id"]) for batch in datamodule.val_dataloader()) == IMAGES - 1


def test_any_file_name_comes_back(tmp_path: Path) -> None:
    names = ["a b", " led", "trailed ", "#1", "x #2", "city/ü", os.fsdecode(b"\xff\xfe"), "\u2028line"]
    write_exclude(tmp_path / "new/file.txt", [("val", name, f"bad\nfile  # {name}") for name in names])
    assert read_exclude(tmp_path / "new/file.txt") == {"val": set(names)}


def test_other_data_sets_take_it_too(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind, pixels in ((split, picture()), (f"{split}annot", picture()[..., 0] % 11)):
            for stem in "ab":
                (tmp_path / kind).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / kind / f"{stem}.png")
    (tmp_path / "skip.txt").write_text("val a")
    datamodule = make(CamVidDataModule, root=str(tmp_path), exclude=str(tmp_path / "skip.txt"))
    assert [datamodule.dataset(split).ids for split in ("train", "val")] == [["a", "b"], ["b"]]


OPTIONS = "datamodule=folder datamodule.classes=[a,b,c] datamodule.crop_size=32 datamodule.batch_size=4 logger=csv"
OPTIONS += " datamodule.num_workers=0 trainer=cpu trainer.max_epochs=1 trainer.precision=32-true model=fcn32s"
OPTIONS += " model.upsample=interpolate recipe.lr=0.01"


def result_of(folder: Path) -> tuple[dict, str]:
    summary = json.loads((folder / "summary.json").read_text())
    clock = ("train_seconds", "images_per_second", "peak_memory_bytes", "checkpoint")
    return {key: value for key, value in summary.items() if key not in clock}, (folder / "per_image.csv").read_text()


def test_scores_are_those_of_a_data_set_without_the_files(data: Path, tmp_path: Path, type_in: TypeIn) -> None:
    """To the last bit, in training and in evaluation; without the file both stop."""
    shutil.copytree(data, tmp_path / "clean")
    for split, index in (("train", 1), ("train", 9), ("val", 4)):
        spoil(data, "truncated JPEG", split, index)
        for kind in ("images", "masks"):
            (tmp_path / f"clean/{kind}/{split}/{index:02d}.png").unlink()
    checked = type_in("segrefine.data", "check", "datamodule=folder", "datamodule.root=data", "write_exclude=bad.txt")
    assert checked.returncode == 1
    stopped = type_in("train.py", *OPTIONS.split(), "datamodule.root=data", "hydra.run.dir=stopped")
    assert stopped.returncode == 2
    assert "cannot be read" in stopped.stderr
    for name, options in (("skipped", ["datamodule.root=data", "datamodule.exclude=bad.txt"]), ("clean", [])):
        options = options or ["datamodule.root=clean"]
        trained = type_in("train.py", *OPTIONS.split(), *options, f"hydra.run.dir=run_{name}")
        assert trained.returncode == 0, trained.stderr
    assert "datamodule.exclude" not in trained.stderr
    assert result_of(tmp_path / "run_skipped") == result_of(tmp_path / "run_clean")
    assert result_of(tmp_path / "run_skipped")[0]["num_images"] == IMAGES - 1

    words = ["checkpoint=run_skipped/checkpoints/best.ckpt", "trainer=cpu", "trainer.precision=32-true"]
    for name, options in (("skipped", []), ("clean", ["datamodule.root=clean", "datamodule.exclude=null"])):
        assert type_in("evaluate.py", *words, *options, f"hydra.run.dir=ev_{name}").returncode == 0
    assert result_of(tmp_path / "ev_skipped") == result_of(tmp_path / "ev_clean")
    assert type_in("evaluate.py", *words, "datamodule.exclude=null", "hydra.run.dir=ev").returncode == 2
