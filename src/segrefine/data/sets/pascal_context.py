"""PASCAL-Context: VOC 2010's trainval images, fully labeled; 59 frequent classes of its 459, and background.

Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014.
"""

from pathlib import Path

import numpy as np

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.data.sets.voc import voc_folder
from segrefine.io.images import read_mat

NUMBERED = names("""
aeroplane 2, bicycle 23, bird 25, boat 31, bottle 34, bus 45, car 59, cat 65, chair 72, cow 98, diningtable 397,
dog 113, horse 207, motorbike 258, person 284, pottedplant 308, sheep 347, sofa 368, train 416, tvmonitor 427, bag 9,
bed 18, bench 22, book 33, building 44, cabinet 46, ceiling 68, clothes 80, computer 85, cup 104, door 115, fence 144,
floor 158, flower 159, food 162, grass 187, ground 189, keyboard 220, light 232, mountain 259, mouse 260, curtain 105,
platform 296, sign 355, plate 295, road 324, rock 326, shelves 349, sidewalk 354, sky 360, snow 366, bedcloth 19,
track 415, tree 420, truck 424, wall 440, water 445, window 454, wood 458
""")
"""The 59 classes and their values in LabelMap, which counts the lines of labels.txt from 1. There diningtable is called
table, clothes cloth, and bedcloth bedclothes."""

LABELS = 459

VALUES = {name: int(value) for name, _, value in (entry.rpartition(" ") for entry in NUMBERED)}

CLASSES = ["background", *VALUES]


@register_datamodule("pascal_context")
class PascalContextDataModule(FileDataModule):
    """The 4,998 train and 5,105 val images of VOC 2010. Every label outside the 59 is background, and so is 0."""

    classes = CLASSES
    code = LabelCode(
        dict.fromkeys(range(LABELS + 1), 0) | {value: index for index, value in enumerate(VALUES.values(), start=1)},
        len(CLASSES),
    )
    has_test = False
    expects = (
        "It should hold VOCdevkit/VOC2010 with JPEGImages/ and ImageSets/Main/{train,val}.txt (host.robots.ox.ac.uk/"
        "pascal/VOC), and trainval/*.mat of cs.stanford.edu/~roozbeh/pascal-context."
    )

    def examples(self, split: str) -> list[Example]:
        voc, labels = voc_folder(self, 2010), self.folder("trainval", "pascal-context/trainval")
        return self.listed(voc / f"ImageSets/Main/{split}.txt", voc / "JPEGImages", labels, ".mat")

    def read_values(self, path: Path) -> np.ndarray:
        return read_mat(path, "LabelMap")
