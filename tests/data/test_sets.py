"""Every published data set in miniature (`miniatures.py`): splits, label values, and what is said of broken files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TypeIn
from miniatures import MINIATURES, SIZE, Expected, from_one, grey, lines, mat, palette, photograph, raw, siftflow

from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.data.build import build_datamodule
from segrefine.data.datamodule import SegmentationDataModule

pytestmark = pytest.mark.usefixtures("narrow")

CLASSES = {
    "ade20k": (150, "wall", "flag"),
    "camvid": (11, "sky", "bicyclist"),
    "cityscapes": (19, "road", "bicycle"),
    "nyudv2": (40, "wall", "otherprop"),
    "pascal_context": (60, "background", "wood"),
    "person_part": (7, "background", "lower leg"),
    "siftflow": (33, "awning", "window"),
    "sunrgbd": (37, "wall", "bag"),
    "voc2011": (21, "background", "tvmonitor"),
    "voc2012": (21, "background", "tvmonitor"),
    "voc2012_aug": (21, "background", "tvmonitor"),
}


def module(name: str, root: Path | None, **options: Any) -> SegmentationDataModule:
    root_option = {"root": None if root is None else str(root)}
    return build_datamodule(read_group("datamodule", name) | {"num_workers": 0} | root_option | options)


def check_labels(datamodule: SegmentationDataModule, expected: Expected) -> None:
    for split, labels in expected.items():
        dataset = datamodule.dataset(split)
        assert sorted(dataset.ids) == sorted(labels)
        for index, name in enumerate(dataset.ids):
            image, label = dataset.read(index)
            assert image.shape == (3, *SIZE)
            assert (label.numpy() == labels[name]).all(), name
        dataset.check()


@pytest.mark.parametrize("name", MINIATURES)
def test_every_label_is_read_right(name: str, tmp_path: Path) -> None:
    check_labels(module(name, tmp_path), MINIATURES[name](tmp_path))


@pytest.mark.parametrize("name", MINIATURES)
def test_batches_come_out(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    datamodule = module(name, tmp_path, batch_size=2, crop_size=[32, 40])
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 40)
    assert not datamodule.has_test
    assert len(datamodule.palette) == datamodule.num_classes


FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn8s_atonce")


FEW = ("voc2012_aug", "nyudv2", "ade20k")  # those that differ most in their files; the others are slow tests


@pytest.mark.parametrize(
    ("name", "model"),
    [
        pytest.param(name, FCNS[index % 5], marks=() if name in FEW else pytest.mark.slow)
        for index, name in enumerate(MINIATURES)
    ],
)
def test_a_network_is_trained_on_it_from_the_command_line(
    name: str, model: str, tmp_path: Path, type_in: TypeIn
) -> None:
    MINIATURES[name](tmp_path)
    datamodule = f"datamodule={name} datamodule.root={tmp_path} datamodule.crop_size=[32,40] datamodule.batch_size=2"
    options = f"{datamodule} datamodule.num_workers=0 model={model} model.upsample=interpolate trainer=debug"
    result = type_in("train.py", *options.split(), "logger=none", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert list(summary["per_class"]) == module(name, None).classes


@pytest.mark.parametrize("name", MINIATURES)
def test_classes_are_the_published_ones_in_order(name: str) -> None:
    classes = module(name, None).classes
    assert (len(classes), classes[0], classes[-1]) == CLASSES[name]
    assert len(set(classes)) == len(classes)


@pytest.mark.parametrize("name", MINIATURES)
def test_an_empty_folder_is_answered_with_what_is_expected(name: str, tmp_path: Path) -> None:
    datamodule = module(name, tmp_path)
    for split in ("train", "val"):
        with pytest.raises(UserError, match="It should hold"):
            datamodule.dataset(split)
    with pytest.raises(UserError, match=r"Set datamodule.root to the data's folder. It should hold"):
        module(name, None).dataset("train")


@pytest.mark.parametrize("name", MINIATURES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    gone = module(name, tmp_path).dataset("train").examples[0].label
    gone.unlink()
    with pytest.raises(UserError, match=gone.stem.removeprefix("img37labels-")):
        module(name, tmp_path).dataset("train").check()


PLANTED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "voc2012": (
        "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png",
        lambda p: palette(p, raw("x", [0, 21])),
        "value 21",
    ),
    "voc2012_aug": (
        "benchmark_RELEASE/dataset/cls/2008_000008.mat",
        lambda p: mat(p, {"GTcls": {"Boundaries": 1}}),
        "no field 'Segmentation'",
    ),
    "nyudv2": ("segmentation/img_5003.mat", lambda p: mat(p, {"segmentation": raw("x", [1, 41])}), "value 41"),
    "pascal_context": (
        "trainval/2008_000002.mat",
        lambda p: mat(p, {"LabelMap": raw("x", [1, 460], np.uint16)}),
        "value 460",
    ),
    "siftflow": (
        "SemanticLabels/spatial_envelope_256x256_static_8outdoorcategories/coast_arnat59.mat",
        lambda p: mat(p, {"T": raw("x", [0])}),
        "no variable 'S'",
    ),
    "sunrgbd": ("label37/train/img37labels-000001.png", lambda p: grey(p, raw("x", [0, 38])), "value 38"),
    "ade20k": (
        "ADEChallengeData2016/annotations/training/ADE_train_00000001.png",
        lambda p: grey(p, raw("x", [0])[:30]),
        r"\(37, 52\) .height, width., but its label .* is \(30, 52\)",
    ),
    "cityscapes": (
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
        lambda p: grey(p, raw("x", [34])),
        "value 34",
    ),
    "person_part": ("pascal_person_part_gt/2008_000008.png", lambda p: photograph(p), "is a color picture"),
    "voc2011": (
        "benchmark_RELEASE/dataset/cls/2007_000032.mat",
        lambda p: p.write_bytes(b"MATLAB 5.0"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_broken_label_is_named(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    place, damage, words = PLANTED[name]
    damage(tmp_path / place)
    with pytest.raises(UserError, match=words) as caught:
        module(name, tmp_path).dataset("train").check()
    assert Path(place).name in str(caught.value)


def test_geometry_of_sift_flow_is_a_task_of_its_own(tmp_path: Path) -> None:
    datamodule = module("siftflow", tmp_path, task="geometric")
    check_labels(datamodule, siftflow(tmp_path, geometric=True))
    assert datamodule.classes == ["sky", "horizontal", "vertical"]
    with pytest.raises(UserError, match="datamodule\\.task=depth should be semantic or geometric"):
        module("siftflow", tmp_path, task="depth")


def test_sun_labels_of_one_folder_are_numbered_on_from_the_test_half(tmp_path: Path) -> None:
    expected: Expected = {"train": {}, "val": {}}
    for half, split, number, stored in (
        ("train", "train", 1, 5051),
        ("train", "train", 2, 5052),
        ("test", "val", 1, 1),
    ):
        values = raw(f"{stored}", [0, 1, 37])
        photograph(tmp_path / f"SUNRGBD-{half}_images/img-{number:06d}.jpg")
        grey(tmp_path / f"sunrgbd_train_test_labels/img-{stored:06d}.png", values)
        expected[split][f"{number:06d}"] = from_one(values)
    check_labels(module("sunrgbd", tmp_path), expected)


def test_nyu_labels_may_be_pictures_and_lists_hold_stems(tmp_path: Path) -> None:
    expected: Expected = {"train": {}, "val": {}}
    for split, name in (("train", "0003"), ("val", "0001")):
        values = raw(name, [0, 1, 40])
        photograph(tmp_path / f"images/{name}.jpg")
        grey(tmp_path / f"labels/{name}.png", values)
        lines(tmp_path / {"train": "train.txt", "val": "test.txt"}[split], [name])
        expected[split][name] = from_one(values)
    check_labels(module("nyudv2", tmp_path), expected)


@pytest.mark.parametrize("root", ["VOCdevkit/VOC2012", "VOCdevkit", "."])
def test_vocs_root_may_be_any_folder_of_the_kit(root: str, tmp_path: Path) -> None:
    expected = MINIATURES["voc2012"](tmp_path)
    check_labels(module("voc2012", tmp_path / root), expected)


def test_hidden_copies_of_macos_are_no_frames_of_cityscapes(tmp_path: Path) -> None:
    expected = MINIATURES["cityscapes"](tmp_path)
    frame = next(tmp_path.glob("leftImg8bit/val/*/*.png"))
    frame.with_name(f"._{frame.name}").write_bytes(b"resource fork")
    check_labels(module("cityscapes", tmp_path), expected)
