"""SUN RGB-D, color only: 37 classes of indoor scenes; 5,285 train and 5,050 test images of several sizes.

Song, Lichtenberg, Xiao: SUN RGB-D, CVPR 2015.
"""

from pathlib import Path

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.io.images import NameOf

CLASSES = names("""
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves,
curtain, dresser, pillow, mirror, floor_mat, clothes, ceiling, books, fridge, tv, paper, towel, shower_curtain, box,
whiteboard, person, night_stand, toilet, sink, lamp, bathtub, bag
""")

TEST_IMAGES = 5050
"""Number of test images. Labels in one folder are numbered test first, then train (README of
ankurhanda/sunrgbd-meta-data)."""


@register_datamodule("sunrgbd")
class SUNRGBDDataModule(FileDataModule):
    """The official split. The half of 5,050 images that is scored is val. Images and labels are paired by number."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES), first=1, void=(0,))
    has_test = False
    expects = (
        "It should hold image/{train,test}/img-*.jpg with label37/{train,test}/*.png (as github.com/chrischoy/SUN_RGBD "
        "sorts them), or SUNRGBD-{train,test}_images/img-*.jpg with sunrgbd_train_test_labels/img-*.png (as "
        "github.com/ankurhanda/sunrgbd-meta-data gives them)."
    )

    def examples(self, split: str) -> list[Example]:
        half = {"train": "train", "val": "test"}[split]
        images = self.folder(f"image/{half}", f"SUNRGBD-{half}_images")
        labels = self.folder(f"label37/{half}", "sunrgbd_train_test_labels")
        return self.pairs(images, labels, number, number if labels.name == half else number_in_half(half))


def number(path: Path) -> str:
    """Return the digits at the end of a file's stem."""
    return path.stem[len(path.stem.rstrip("0123456789")) :]


def number_in_half(half: str) -> NameOf:
    """Return a function: label of either half -> its number within `half`, or None for one of the other half."""
    first = TEST_IMAGES if half == "train" else 0

    def name(path: Path) -> str | None:
        index = int(number(path) or 0)
        return f"{index - first:06d}" if (index > TEST_IMAGES) == (half == "train") else None

    return name
