"""Bad files met in the middle of an epoch: the run stops and names the file, or leaves the example out and names it."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make, make_recipe
from conftest import Typed, TypeIn
from PIL import Image

from segrefine.cli.data import run
from segrefine.core.errors import BadFileError, UserError
from segrefine.data.datamodule import collate
from segrefine.data.dataset import LeftOut
from segrefine.data.sets.folder import FolderDataModule
from segrefine.engine.callbacks.left_out import LeftOutList
from segrefine.engine.module import SegmentationModule
from segrefine.models.logits import Logits
from segrefine.models.tta import Inference

pytestmark = pytest.mark.usefixtures("narrow")

CHECKOUT = Path(__file__).parents[2]
IMAGES = 12
BAD = 4  # not among the eight labels that are read before training
SIZE = (40, 48)


def picture(channels: int | None = 3, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255 if channels else 3, (*SIZE, 3) if channels else SIZE, np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for kind, channels in (("images", 3), ("masks", None)):
            (root / kind / split).mkdir(parents=True)
            for index in range(IMAGES):
                picture(channels, index).save(root / kind / split / f"{index:02d}.png")
    return root


def truncate(image: Path, mask: Path) -> None:
    picture().save(image, format="JPEG")
    image.write_bytes(image.read_bytes()[:700])


def resize(image: Path, mask: Path) -> None:
    picture().resize((30, 31)).save(image)


def out_of_range(image: Path, mask: Path) -> None:
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(mask)


FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "truncated JPEG": (truncate, "images/{}/04.png cannot be read"),
    "zero bytes": (lambda image, mask: image.write_bytes(b""), "images/{}/04.png cannot be read"),
    "other size": (resize, r"images/{}/04.png is \(31, 30\)"),
    "value": (out_of_range, "masks/{}/04.png holds label value 7"),
    "vanished": (lambda image, mask: mask.unlink(), "There is no file .*masks/{}/04"),
    "colour mask": (lambda image, mask: picture().save(mask), "masks/{}/04.png is a colour picture"),
}


def spoil(data: Path, fault: str, split: str, index: int = BAD) -> None:
    FAULTS[fault][0](*(data / kind / split / f"{index:02d}.png" for kind in ("images", "masks")))


def folder(data: Path, **options: object) -> FolderDataModule:
    given = {"classes": ["a", "b", "c"], "crop_size": 32, "batch_size": 2, "num_workers": 0} | options
    return make(FolderDataModule, root=str(data), **given)


def complaint(loader: Iterable) -> str:
    """The message with which reading ends. PyTorch leaves the error and the loader in a cycle of references, and a
    loader that Python finds in one waits 20 s for its processes to end, so the cycle is broken here."""
    try:
        list(loader)
    except BadFileError as error:
        error.__traceback__ = None
        return str(error)
    raise AssertionError("all was read")


OPTIONS = "datamodule=folder datamodule.classes=[a,b,c] datamodule.crop_size=32 datamodule.batch_size=4 logger=csv"
OPTIONS += " datamodule.num_workers=0 trainer=cpu trainer.max_epochs=1 trainer.precision=32-true model=fcn32s"
OPTIONS += " model.upsample=interpolate trainer.limit_train_batches=3"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_stops_the_epoch_by_name(fault: str, workers: int, data: Path) -> None:
    datamodule = folder(data, num_workers=workers)
    loader = datamodule.val_dataloader()
    spoil(data, fault, "val")
    message = complaint(loader)
    assert re.search(FAULTS[fault][1].format("val"), message)
    assert "\n" not in message  # no traceback of a worker


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_where_asked_for_just_that_example_is_left_out(fault: str, workers: int, data: Path) -> None:
    datamodule = folder(data, num_workers=workers, on_error="skip", eval_batch_size=3)
    spoil(data, fault, "val")
    datamodule.setup("fit")
    batches = list(datamodule.val_dataloader())
    assert [index for batch in batches for index in batch["index"].tolist()] == [0, 1, 2, 3, *range(5, IMAGES)]
    assert [len(batch["image"]) for batch in batches] == [len(batch["id"]) for batch in batches] == [3, 2, 3, 3]
    ((example,),) = [batch["left_out"] for batch in batches if batch["left_out"]]
    assert isinstance(example, LeftOut)
    assert example.id == "04"
    with pytest.raises(BadFileError, match=FAULTS[fault][1].format("val")):
        raise BadFileError(example.reason)


def test_statistics_go_by_what_is_left(data: Path) -> None:
    expected, _ = folder(data).class_pixels()
    expected = expected - np.bincount(np.asarray(Image.open(data / "masks/train/04.png")).ravel(), minlength=3)
    spoil(data, "value", "train")
    (data / "images/val/00.png").write_bytes(b"")
    datamodule = folder(data, on_error="skip")
    assert datamodule.class_pixels()[0].tolist() == expected.tolist()
    assert datamodule.image_size("val") == SIZE
    with pytest.raises(BadFileError, match=r"00\.png"):
        folder(data).image_size("val")
    assert folder(data, on_error="skip", classes=None).num_classes == 8  # counted, where a mask holds 7
    (data / "masks/train/04.png").write_bytes(b"")
    assert folder(data, on_error="skip", classes=None).num_classes == 3


def test_lists_may_name_files_that_are_gone(data: Path) -> None:
    for split in ("train", "val"):
        lines = [f"images/{split}/{index:02d}.png masks/{split}/{index:02d}.png" for index in range(IMAGES)]
        (data / f"{split}.txt").write_text("\n".join(lines))
    spoil(data, "vanished", "val")
    lists = {"train_list": "train.txt", "val_list": "val.txt"}
    with pytest.raises(UserError, match="line 5: there is no file"):
        folder(data, **lists).setup("fit")
    datamodule = folder(data, **lists, on_error="skip")
    datamodule.setup("fit")
    assert sum(len(batch["id"]) for batch in datamodule.val_dataloader()) == IMAGES - 1


def test_the_check_command_reports_all_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(data, "other size", "val")
    assert run(["check", "datamodule=folder", f"datamodule.root={data}", "datamodule.on_error=skip"]) == 1
    assert "bad files: 1" in capsys.readouterr().out


def test_a_split_of_which_nothing_is_left_stops(data: Path) -> None:
    for index in range(IMAGES):
        spoil(data, "zero bytes", "val", index)
    with pytest.raises(UserError, match=r"None of a split's 12 images can be used\. The first: .*val/00\.png"):
        folder(data, on_error="skip").setup("fit")


@pytest.mark.parametrize("on_error", ["ignore", None])
def test_what_to_do_is_one_of_two(on_error: str | None) -> None:
    with pytest.raises(UserError, match=r"should be stop .* or skip"):
        make(FolderDataModule, on_error=on_error)


def test_a_fault_of_the_machine_is_not_left_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "occupied").touch()
    datamodule = folder(data, on_error="skip", cache=str(tmp_path / "occupied"))
    with pytest.raises(UserError, match=r"datamodule\.cache=.* cannot be written"):
        next(iter(datamodule.val_dataloader()))


class Flat(torch.nn.Module):
    """Stands in for a network: one weight that is class 1's score everywhere."""

    layout = torch.contiguous_format
    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.encoder = torch.nn.Identity()

    preprocess = staticmethod(lambda images: images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.weight * images.mean(1, keepdim=True)
        return torch.cat([scores * 0, scores, scores * 0], dim=1)


def blank_batch(count: int = 2) -> dict:
    return collate([LeftOut(f"{index}", "bad") for index in range(count)], remedy="", blank=(32, 40))


def test_a_batch_of_which_nothing_is_left_is_wholly_void() -> None:
    batch = blank_batch()
    assert batch["image"].shape == (2, 3, 32, 40)
    assert (batch["label"] == 255).all()
    assert batch["id"] == batch["index"].tolist() == []
    assert batch["left_out"] == [("0", "bad"), ("1", "bad")]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 0.0]])
def test_it_trains_nothing_and_counts_nowhere(
    reduction: str, class_weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Flat()
    recipe = make_recipe(class_weights=class_weights, loss=reduction)
    module = SegmentationModule(net, recipe, Inference(net))  # type: ignore[arg-type]
    logged: list[tuple[str, float, int]] = []
    monkeypatch.setattr(module, "log", lambda name, value, batch_size, **_: logged.append((name, value, batch_size)))
    batch = blank_batch()
    assert len(module.validation_step(batch, 0)) == 0
    assert len(module.test_step(batch, 0)) == 0
    good = {"image": torch.ones(1, 3, 32, 40, dtype=torch.uint8), "label": torch.ones(1, 32, 40, dtype=torch.uint8)}
    assert len(module.test_step(good | {"id": ["a"], "index": torch.tensor([5])}, 1)) == 1
    assert [(name, value.item(), count) for name, value, count in logged] == [("val/loss", 0.0, 0)]
    assert module.val_metrics.confusion.sum() == 0
    scores = module.test_metrics.compute()
    assert scores["indices"].tolist() == [5]
    assert scores["pixel_acc"] == 1

    loss = Logits(net, module.images(batch)).loss(batch["label"], module.class_weights, reduction)  # type: ignore[arg-type]
    loss.backward()
    assert loss == 0
    assert net.weight.grad == 0


def summary_and_rows(folder: Path) -> tuple[dict, list[str]]:
    with (folder / "per_image.csv").open(newline="") as file:
        rows = [row["image"] for row in csv.DictReader(file)]
    return json.loads((folder / "summary.json").read_text()), rows


def check_skipping_run(result: Typed | subprocess.CompletedProcess[str], run: Path) -> None:
    """Training over data with 04 and 05 bad in train, 04 and 05 in val: together they are one batch of two."""
    assert result.returncode == 0, result.stderr
    summary, rows = summary_and_rows(run)
    assert [(entry["split"], entry["id"]) for entry in summary["left_out"]] == [("val", "04"), ("val", "05")]
    assert "04.png cannot be read" in summary["left_out"][0]["reason"]
    assert "Left out (datamodule.on_error=skip), 2 in all:\n  val 04: " in result.stderr
    assert summary["num_images"] == IMAGES - 2
    assert rows == [f"{index:02d}" for index in range(IMAGES) if index not in (4, 5)]


def test_a_run_and_an_evaluation_go_on_and_say_what_was_left_out(data: Path, tmp_path: Path, type_in: TypeIn) -> None:
    for index in (4, 5):
        spoil(data, "truncated JPEG", "val", index)
    options = [*OPTIONS.split(), f"datamodule.root={data}", "datamodule.eval_batch_size=2", "hydra.run.dir=run"]
    check_skipping_run(type_in("train.py", *options, "datamodule.on_error=skip"), tmp_path / "run")
    checkpoint = "checkpoint=run/checkpoints/best.ckpt"
    check_skipping_run(type_in("evaluate.py", checkpoint, "trainer=cpu", "hydra.run.dir=ev"), tmp_path / "ev")
    stopped = type_in("evaluate.py", checkpoint, "trainer=cpu", "hydra.run.dir=ev", "datamodule.on_error=stop")
    assert stopped.returncode == 2
    assert "04.png cannot be read" in stopped.stderr


def test_an_epoch_without_any_image_stops(data: Path, type_in: TypeIn) -> None:
    """The one image of val that can be read keeps out of the batches that are limited to the first two."""
    for index in range(IMAGES - 1):
        spoil(data, "zero bytes", "val", index)
    options = [*OPTIONS.split(), f"datamodule.root={data}", "hydra.run.dir=run", "trainer.limit_val_batches=2"]
    result = type_in("train.py", *options, "datamodule.on_error=skip")
    assert result.returncode == 2
    assert "error: None of the images of val can be used. The first: " in result.stderr


@pytest.mark.slow
def test_two_processes_train_on_in_step(data: Path, tmp_path: Path) -> None:
    """Each has batches of one, so that bad images are whole batches of one process alone."""
    for index in (4, 5):
        spoil(data, "truncated JPEG", "val", index)
    for index in (1, 6, 7):
        spoil(data, "vanished", "train", index)
    options = [
        *OPTIONS.split(),
        f"datamodule.root={data}",
        "datamodule.on_error=skip",
        "datamodule.batch_size=1",
        "datamodule.crop_size=64",
    ]
    options += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.limit_train_batches=6"]
    words = [
        sys.executable,
        str(CHECKOUT / "train.py"),
        *options,
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
    ]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    summary, rows = summary_and_rows(tmp_path / "run")
    places = [(entry["split"], entry["id"]) for entry in summary["left_out"]]
    assert places == [("train", "01"), ("train", "06"), ("train", "07"), ("val", "04"), ("val", "05")]
    assert summary["num_images"] == len(rows) == IMAGES - 2
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == IMAGES // 2


def test_a_run_that_goes_on_at_the_end_of_an_epoch_has_seen_nothing_of_it() -> None:
    left_out = LeftOutList()
    left_out.load_state_dict({"entries": [{"split": "train", "id": "a", "reason": "bad"}]})
    left_out._gather("train")
    assert left_out.entries == [{"split": "train", "id": "a", "reason": "bad"}]
    left_out._collect("train", {"id": [], "left_out": [LeftOut("b", "bad")]})
    with pytest.raises(UserError, match="None of the images of train"):
        left_out._gather("train")
