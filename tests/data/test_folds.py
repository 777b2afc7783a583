"""Folds for cross-validation: who is in which, by frames of sequences or by images."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from builders import make
from conftest import TypeIn
from miniatures import MINIATURES

from segrefine.core.errors import UserError
from segrefine.data.build import create_datamodule
from segrefine.data.files import FileDataModule
from segrefine.data.folds import MIN_BLOCK, number_folds, pool
from segrefine.data.sets.camvid import CamVidDataModule
from segrefine.data.sets.folder import FolderDataModule
from segrefine.runs.read import read_run

pytestmark = pytest.mark.usefixtures("narrow")

DRIVES = {
    "train": {"0001TP": range(6690, 7320, 30), "0006R0": range(930, 1800, 30), "0016E5": range(390, 1500, 30)},
    "val": {"0016E5": range(1600, 1640, 2)},
    "test": {"Seq05VD": range(0, 90, 30)},
}
"""As in CamVid, val goes on with a drive of train, at 15 frames a second for one."""


def touch(root: Path, split: str, stems: list[str]) -> None:
    """Empty files: folds look at names alone."""
    for kind in (split, f"{split}annot"):
        (root / kind).mkdir(parents=True)
        for stem in stems:
            (root / kind / f"{stem}.png").touch()


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for split, drives in DRIVES.items():
        touch(tmp_path, split, [f"{drive}_{frame:06d}" for drive, frames in drives.items() for frame in frames])
    return tmp_path


def ids(datamodule: FileDataModule) -> dict[str, list[str]]:
    return {split: [example.id for example in datamodule.list_once(split)] for split in ("train", "val")}


def sides(root: Path, fold: int, folds: int, **options: object) -> dict[str, list[str]]:
    return ids(make(CamVidDataModule, root=str(root), fold=fold, folds=folds, **options))


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_each_fold_is_the_same_block_of_every_drive(camvid: Path, folds: int) -> None:
    frames = {drive: [*DRIVES["train"][drive], *DRIVES["val"].get(drive, ())] for drive in DRIVES["train"]}
    everything = sorted(f"{drive}_{frame:06d}" for drive, numbers in frames.items() for frame in numbers)
    vals = []
    for fold in range(folds):
        found = sides(camvid, fold, folds)
        assert sorted(found["train"] + found["val"]) == everything
        vals.append(found["val"])
        for drive, numbers in frames.items():
            places = [numbers.index(int(name.split("_")[1])) for name in sorted(found["val"]) if name.startswith(drive)]
            assert places == list(range(places[0], places[0] + len(places)))  # one block, without holes
            assert abs(places[0] - fold * len(numbers) / folds) < folds  # the fold-th, up to rounding
    assert sorted(name for val in vals for name in val) == everything
    assert max(map(len, vals)) - min(map(len, vals)) <= 1


def test_the_files_are_those_of_the_image(camvid: Path) -> None:
    """Train now has images from the folder val."""
    examples = make(CamVidDataModule, root=str(camvid), fold=0, folds=4).list_once("train")
    assert {example.image.parent.name for example in examples} == {"train", "val"}
    for example in examples:
        assert example.image.stem == example.label.stem == example.id
        assert example.label.parent.name == f"{example.image.parent.name}annot"


def test_the_test_split_stays(camvid: Path) -> None:
    datamodule = make(CamVidDataModule, root=str(camvid), fold=0, folds=4)
    assert datamodule.test_split == "test"
    assert [example.id for example in datamodule.list_once("test")] == [
        f"Seq05VD_0000{at}" for at in ("00", "30", "60")
    ]


def test_a_gap_drops_train_frames_alone(camvid: Path) -> None:
    for fold in range(4):
        plain, apart = sides(camvid, fold, 4), sides(camvid, fold, 4, fold_gap=30)
        assert apart["val"] == plain["val"]
        places = [(drive, int(frame)) for drive, frame in (name.split("_") for name in plain["val"])]
        for name in plain["train"]:
            drive, frame = name.split("_")
            nearest = min(abs(int(frame) - other) for own, other in places if own == drive)
            assert (name in apart["train"]) == (nearest >= 30)
    assert len(sides(camvid, 2, 4, fold_gap=30)["train"]) < len(sides(camvid, 2, 4)["train"])
    with pytest.raises(UserError, match="leave no image of the fold's train"):
        sides(camvid, 0, 4, fold_gap=100_000)


def test_short_sequences_stay_whole() -> None:
    clips = {f"clip{clip}_{frame}": clip for clip in range(20) for frame in range(4)}
    members = pool({"train": clips}, {"sequence_pattern": r"(.+)_(\d+)"})
    numbers = number_folds(members, 5)
    assert Counter(numbers.values()) == dict.fromkeys(range(5), 16)
    assert len({(clip, numbers[name]) for name, clip in clips.items()}) == 20
    with pytest.raises(UserError, match=f"folds=21 would leave a fold without images.* fewer than {21 * MIN_BLOCK}"):
        number_folds(members, 21)


def test_images_by_themselves_are_divided_at_random_and_always_alike() -> None:
    names = [f"{index:03d}" for index in range(101)]
    numbers = number_folds(pool({"train": names}, {}), 4)
    assert sorted(Counter(numbers.values()).values()) == [25, 25, 25, 26]
    assert numbers == number_folds(pool({"val": reversed(names)}, {}), 4)
    changes = sum(numbers[one] != numbers[other] for one, other in pairwise(names))
    assert changes > 50  # no blocks: three of four neighbors are in another fold
    assert "".join(str(numbers[name]) for name in names[:12]) == "022221313102"  # in any process


def test_the_seed_of_the_run_moves_no_fold(camvid: Path) -> None:
    found = [create_datamodule("camvid", run_seed=seed, root=str(camvid), fold=1, folds=3) for seed in (0, 7)]
    assert ids(found[0]) == ids(found[1])


@pytest.mark.parametrize("name", sorted(MINIATURES.keys() - {"nyudv2"}))
def test_every_data_set_has_folds(name: str, tmp_path: Path) -> None:
    """Each label is read once as val. SUN RGB-D's halves share ids, so there the split goes in front."""
    own = MINIATURES[name](tmp_path)
    prefixes = {split: f"{split}_" if name == "sunrgbd" else "" for split in own}
    expected = {prefixes[split] + image: label for split in own for image, label in own[split].items()}
    seen: list[str] = []
    for fold in range(2):
        datamodule = create_datamodule(name, root=str(tmp_path), fold=fold, folds=2, num_workers=0)
        assert datamodule.test_split == "val"
        val, train = datamodule.dataset("val"), datamodule.dataset("train")
        assert {*val.ids, *train.ids} == expected.keys()
        seen += val.ids
        for index, image in enumerate(val.ids):
            assert (val.read_label(index).numpy() == expected[image]).all()
    assert sorted(seen) == sorted(expected)


def test_a_single_short_sequence_has_no_folds(tmp_path: Path) -> None:
    MINIATURES["nyudv2"](tmp_path)
    with pytest.raises(UserError, match=r"folds=2 would leave a fold without images.*fewer than 10 frames"):
        create_datamodule("nyudv2", root=str(tmp_path), fold=0, folds=2).dataset("val")


def write_lists(root: Path, train: list[str], val: list[str]) -> dict[str, str]:
    for split, names in (("train", train), ("val", val)):
        (root / f"{split}.txt").write_text("".join(f"{name}.jpg {name}.png\n" for name in names))
    return {"root": str(root), "train_list": "train.txt", "val_list": "val.txt"}


def test_an_image_that_both_lists_name_is_on_one_side(tmp_path: Path) -> None:
    lists = write_lists(tmp_path, ["a", "b", "c"], ["c", "d"])
    vals = [ids(make(FolderDataModule, fold=fold, folds=2, **lists)) for fold in range(2)]
    assert sorted(vals[0]["val"] + vals[1]["val"]) == list("abcd")
    assert sorted(vals[0]["val"] + vals[0]["train"]) == list("abcd")


def test_a_pattern_makes_sequences_of_a_folder(tmp_path: Path) -> None:
    lists = write_lists(
        tmp_path, [f"clip_{frame}" for frame in range(12)], [f"clip_{frame}" for frame in range(12, 20)]
    )
    val = ids(make(FolderDataModule, fold=1, folds=2, sequence_pattern=r"(.+)_(\d+)", **lists))["val"]
    assert val == [f"clip_{frame}" for frame in range(10, 20)]
    with pytest.raises(UserError, match=r"sequence_pattern=\(x\)\(y\) finds no frame .* such as 'clip_0'"):
        ids(make(FolderDataModule, fold=1, folds=2, sequence_pattern="(x)(y)", **lists))


def test_an_excluded_image_moves_no_other(camvid: Path) -> None:
    """The file names images by the data's own splits, whatever their fold."""
    excluded = {"val": "0016E5_001610", "train": "0001TP_006690"}
    (camvid / "bad.txt").write_text("".join(f"{split} {name}\n" for split, name in excluded.items()))
    for fold in range(4):
        plain, fewer = sides(camvid, fold, 4), sides(camvid, fold, 4, exclude=str(camvid / "bad.txt"))
        for side in plain:
            assert fewer[side] == [name for name in plain[side] if name not in excluded.values()]


def test_a_fold_is_checked_and_trained_on_from_the_command_line(tmp_path: Path, type_in: TypeIn) -> None:
    MINIATURES["camvid"](tmp_path)  # two frames of one drive, and one of another
    words = ["datamodule=camvid", f"datamodule.root={tmp_path}", "datamodule.fold=1", "datamodule.folds=2"]
    checked = type_in("segrefine.data", "check", *words)
    assert checked.returncode == 0, checked.stderr
    assert "2 images of train and 1 of val. The 2 folds have 2, 1 images." in checked.stdout + checked.stderr
    words[2] = "datamodule.fold=0"
    options = "datamodule.crop_size=[64,80] datamodule.batch_size=1 datamodule.num_workers=0 model=fcn32s"
    options += " model.upsample=interpolate trainer=debug logger=none hydra.run.dir=run"
    trained = type_in("train.py", *words, *options.split())
    assert trained.returncode == 0, trained.stderr
    run = read_run(tmp_path / "run")
    assert run.summary.split == "val"
    assert set(run.images) <= {"0001TP_006690", "0001TP_006720"}  # the debug trainer scores a few
    assert run.config["datamodule"]["fold"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 0}, "Give both datamodule.fold and datamodule.folds"),
        ({"folds": 4}, "Give both datamodule.fold and datamodule.folds"),
        ({"fold": 4, "folds": 4}, "datamodule.fold=4 should be 0 to 3"),
        ({"fold": -1, "folds": 4}, "datamodule.fold=-1 should be at least 0 or null"),
        ({"fold": 0, "folds": 1}, "datamodule.folds=1 should be at least 2 or null"),
        ({"fold_gap": 30}, "datamodule.fold_gap=30 needs datamodule.fold and datamodule.folds"),
        ({"fold": 0, "folds": 108}, "datamodule.folds=108 is more than the 107 images of train and val"),
    ],
)
def test_folds_that_cannot_be(options: dict[str, int], message: str, camvid: Path) -> None:
    with pytest.raises(UserError, match=message):
        make(CamVidDataModule, root=str(camvid), **options).list_once("val")
