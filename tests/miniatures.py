"""Small data sets in the layouts and formats in which the real ones are distributed.

Each builder writes below a root and returns, for "train" and "val", the label that each id has to get: (H, W) uint8.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from segrefine.core.labels import voc_color_map

Expected = dict[str, dict[str, np.ndarray]]
SIZE = (37, 52)
VOID = 255


def raw(name: str, values: list[int], dtype: type = np.uint8) -> np.ndarray:
    """A map of random values that holds each of them."""
    rng = np.random.default_rng(list(name.encode()))
    drawn = rng.choice(values, SIZE)
    drawn.flat[: len(values)] = values
    return drawn.astype(dtype)


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(path.stem.encode())).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(values).save(path)


def grey(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def palette(path: Path, values: np.ndarray) -> None:
    """As VOC's labels are: indices into its colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.flatten().tolist())
    picture.putpalette(voc_color_map().flatten().tolist())
    picture.save(path)


def mat(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


def lines(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


VOC_VALUES = [0, 1, 15, 20, VOID]


def voc(root: Path, year: int) -> Expected:
    folder = root / f"VOCdevkit/VOC{year}"
    splits = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2007_000042", "2007_000061"]}
    for split, ids in splits.items():
        lines(folder / f"ImageSets/Segmentation/{split}.txt", ids)
        for name in ids:
            photograph(folder / f"JPEGImages/{name}.jpg")
            palette(folder / f"SegmentationClass/{name}.png", raw(name, VOC_VALUES))
    return {split: {name: raw(name, VOC_VALUES) for name in ids} for split, ids in splits.items()}


def sbd(root: Path) -> Expected:
    """Its train and its val; each shares images with VOC's train and val."""
    folder = root / "benchmark_RELEASE/dataset"
    splits = {"train": ["2007_000032", "2007_000033", "2008_000008"], "val": ["2007_000061", "2008_000015"]}
    for split, ids in splits.items():
        lines(folder / f"{split}.txt", ids)
        for name in ids:
            photograph(folder / f"img/{name}.jpg")
            values = raw(f"sbd {name}", [0, 2, 20])
            struct = {
                "Boundaries": np.zeros((20, 1)),
                "Segmentation": values,
                "CategoriesPresent": np.array([[2], [20]]),
            }
            mat(folder / f"cls/{name}.mat", {"GTcls": struct})
    return {split: {name: raw(f"sbd {name}", [0, 2, 20]) for name in ids} for split, ids in splits.items()}


def voc2012(root: Path) -> Expected:
    return voc(root, 2012)


def voc2012_aug(root: Path) -> Expected:
    own, theirs = voc(root, 2012), sbd(root)
    added = {"2008_000008": theirs["train"]["2008_000008"], "2008_000015": theirs["val"]["2008_000015"]}
    return {"train": own["train"] | added, "val": own["val"]}


def voc2011(root: Path) -> Expected:
    own, theirs = voc(root, 2011), sbd(root)
    return {"train": theirs["train"], "val": {name: own["val"][name] for name in ("2007_000042", "2007_000061")}}


def from_one(values: np.ndarray) -> np.ndarray:
    """Classes from 1 on and void at 0 to classes from 0 on and void at 255."""
    return (values.astype(int) - 1).astype(np.uint8)


def nyudv2(root: Path) -> Expected:
    """As FCN has it: .mat labels, and lists of numbers."""
    splits = {"train": ["5003", "5004"], "val": ["5001"]}
    expected: Expected = {}
    for split, numbers in splits.items():
        lines(root / {"train": "trainval.txt", "val": "test.txt"}[split], numbers)
        for name in (f"img_{number}" for number in numbers):
            values = raw(name, [0, 1, 40])
            photograph(root / f"data/images/{name}.png")
            mat(root / f"segmentation/{name}.mat", {"segmentation": values})
            expected.setdefault(split, {})[name] = from_one(values)
    return expected


def pascal_context(root: Path) -> Expected:
    folder = root / "VOCdevkit/VOC2010"
    # accordion, aeroplane, bag, bedclothes, cloth, table, tvmonitor, wood and the last; classes counted by hand
    meaning = {0: 0, 1: 0, 2: 1, 9: 21, 19: 52, 80: 28, 397: 11, 427: 20, 458: 59, 459: 0}
    splits = {"train": ["2008_000002", "2008_000003"], "val": ["2008_000007"]}
    expected: Expected = {}
    for split, ids in splits.items():
        lines(folder / f"ImageSets/Main/{split}.txt", ids)
        for name in ids:
            values = raw(name, list(meaning), np.uint16)
            photograph(folder / f"JPEGImages/{name}.jpg")
            mat(root / f"trainval/{name}.mat", {"LabelMap": values})
            expected.setdefault(split, {})[name] = np.vectorize(meaning.get)(values).astype(np.uint8)
    return expected


def siftflow(root: Path, geometric: bool = False) -> Expected:
    pictures = "spatial_envelope_256x256_static_8outdoorcategories"
    splits = {"train": ["coast_arnat59", "highway_bost158"], "val": ["coast_art294"]}
    lines(root / "TestSet1.txt", [f"{pictures}\\{name}.jpg" for name in splits["val"]])
    expected: Expected = {}
    for split, ids in splits.items():
        for name in ids:
            semantic, geometry = raw(name, [0, 1, 33]), raw(name, [-1, 1, 2, 3], np.int16)
            photograph(root / f"Images/{pictures}/{name}.jpg")
            mat(root / f"SemanticLabels/{pictures}/{name}.mat", {"S": semantic, "names": np.array(["a"], object)})
            mat(root / f"GeoLabels/{pictures}/{name}.mat", {"S": geometry})
            label = np.where(geometry == -1, VOID, geometry - 1).astype(np.uint8) if geometric else from_one(semantic)
            expected.setdefault(split, {})[name] = label
    return expected


def sunrgbd(root: Path) -> Expected:
    splits = {"train": ["000001", "000002"], "val": ["000001"]}
    expected: Expected = {}
    for split, numbers in splits.items():
        half = {"train": "train", "val": "test"}[split]
        for number in numbers:
            values = raw(half + number, [0, 1, 37])
            photograph(root / f"image/{half}/img-{number}.jpg")
            grey(root / f"label37/{half}/img37labels-{number}.png", values)
            expected.setdefault(split, {})[number] = from_one(values)
    return expected


def ade20k(root: Path) -> Expected:
    splits = {"train": ["ADE_train_00000001", "ADE_train_00000002"], "val": ["ADE_val_00000001"]}
    expected: Expected = {}
    for split, ids in splits.items():
        part = {"train": "training", "val": "validation"}[split]
        for name in ids:
            values = raw(name, [0, 1, 150])
            photograph(root / f"ADEChallengeData2016/images/{part}/{name}.jpg")
            grey(root / f"ADEChallengeData2016/annotations/{part}/{name}.png", values)
            expected.setdefault(split, {})[name] = from_one(values)
    return expected


def cityscapes(root: Path) -> Expected:
    meaning = {0: VOID, 6: VOID, 7: 0, 11: 2, 26: 13, 29: VOID, 33: 18, 255: VOID}
    splits = {"train": ["aachen_000000_000019", "zurich_000001_000019"], "val": ["lindau_000000_000019"]}
    expected: Expected = {}
    for split, ids in splits.items():
        for name in ids:
            city = name.partition("_")[0]
            values = raw(name, list(meaning))
            photograph(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
            grey(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", values)
            grey(root / f"gtFine/{split}/{city}/{name}_gtFine_instanceIds.png", values)
            expected.setdefault(split, {})[name] = np.vectorize(meaning.get)(values).astype(np.uint8)
    return expected


def person_part(root: Path) -> Expected:
    splits = {"train": ["2008_000008", "2008_000034"], "val": ["2008_000003"]}
    expected: Expected = {}
    for split, ids in splits.items():
        lines(root / f"pascal_person_part_trainval_list/{split}.txt", ids)
        for name in ids:
            photograph(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg")
            grey(root / f"pascal_person_part_gt/{name}.png", raw(name, [0, 1, 6, VOID]))
            expected.setdefault(split, {})[name] = raw(name, [0, 1, 6, VOID])
    return expected


def camvid(root: Path) -> Expected:
    splits = {"train": ["0001TP_006690", "0001TP_006720"], "val": ["0016E5_07959"]}
    expected: Expected = {}
    for split, ids in splits.items():
        for name in ids:
            values = raw(name, [0, 10, 11])
            photograph(root / f"CamVid/{split}/{name}.png")
            grey(root / f"CamVid/{split}annot/{name}.png", values)
            expected.setdefault(split, {})[name] = np.where(values == 11, VOID, values).astype(np.uint8)
    return expected


MINIATURES: dict[str, Callable[[Path], Expected]] = {
    builder.__name__: builder
    for builder in (
        *(ade20k, camvid, cityscapes, nyudv2, pascal_context, person_part, siftflow, sunrgbd),
        *(voc2011, voc2012, voc2012_aug),
    )
}
