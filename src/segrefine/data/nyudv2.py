"""NYU Depth v2, colour alone: 40 classes of indoor scenes, 640 x 480; 795 train and 654 test images.

Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; the 40 classes: Gupta,
Arbelaez, Malik, Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images, CVPR 2013.
"""

from pathlib import Path

import numpy as np

from segrefine.data.files import Example, FileDataModule, LabelCode
from segrefine.data.io import find_images, read_label, read_mat
from segrefine.labels import names

CLASSES = names("""
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves,
curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper, towel, shower
curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture,
otherprop
""")


class NYUDv2DataModule(FileDataModule):
    """The official halves; val is the one of 654 images that is scored. Labels are PNGs or, as FCN has them, .mat."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES), first=1, void=(0,))
    has_test = False
    expects = (
        "It should hold images/ (or data/images/) with a PNG or JPEG each, labels/*.png or segmentation/*.mat of the "
        "same stems, and the lists trainval.txt (or train.txt, if that has all 795) and test.txt of stems or of their "
        "numbers, as github.com/shelhamer/fcn.berkeleyvision.org (data/nyud) describes it."
    )

    def examples(self, split: str) -> list[Example]:
        lists = [self.root / name for name in (("trainval.txt", "train.txt") if split == "train" else ("test.txt",))]
        wanted = self.stems(next((file for file in lists if file.is_file()), lists[-1]))
        folders = self.folder("data/images", "images"), self.folder("labels", "segmentation")
        images, labels = map(find_images, folders)
        stems = [f"img_{line}" if line.isdecimal() and line not in images else line for line in wanted]
        return [
            Example(stem, images.get(stem, folders[0] / f"{stem}.*"), labels.get(stem, folders[1] / f"{stem}.*"))
            for stem in stems
        ]

    def read_values(self, path: Path) -> np.ndarray:
        return read_mat(path, "segmentation") if path.suffix == ".mat" else read_label(path)
