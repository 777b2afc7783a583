"""NYU Depth v2, color only: 40 classes of indoor scenes, 640 x 480; 795 train and 654 test images.

Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; the 40 classes: Gupta,
Arbelaez, Malik, Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images, CVPR 2013.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segrefine.core.extras import require
from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.io.atomic import write_text
from segrefine.io.download import fetch
from segrefine.io.images import find_images, read_label, read_mat

CLASSES = names("""
wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves,
curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper, towel, shower
curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture,
otherprop
""")


META = "https://raw.githubusercontent.com/ankurhanda/nyuv2-meta-data/b92d15c506876dada1ac4086938e30ebc4deb49b"

SOURCES = {
    "nyu_depth_v2_labeled.mat": (
        "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
        "520609c519fba3ba5ac58c8fefcc3530",
    ),
    "splits.mat": (f"{META}/splits.mat", "08e3c3aea27130ac7c01ffd739a4535f"),
    "classMapping40.mat": (f"{META}/classMapping40.mat", "e377c88729dd63af81205ac9a8634a19"),
}
"""Address and md5 of the owners' labeled file, of the official split and of Gupta's 40 classes for the 894 names."""

FIRST_NUMBER = 5001
"""Number of the first image of the labeled file, as FCN's and Gupta's files number the images."""


@register_datamodule("nyudv2")
class NYUDv2DataModule(FileDataModule):
    """The official split. The half of 654 images that is scored is val.

    Labels are PNGs or, as in FCN's release, .mat files.
    """

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES), first=1, void=(0,))
    has_test = False
    expects = (
        "It should hold images/ (or data/images/) with a PNG or JPEG each, labels/*.png or segmentation/*.mat of the "
        "same stems, and the lists trainval.txt (or train.txt, if that has all 795) and test.txt of stems or of their "
        "numbers, as github.com/shelhamer/fcn.berkeleyvision.org (data/nyud) describes it. "
        "datamodule.download=true makes all of it from the labelled file (2.8 GB)."
    )
    downloadable = True

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

    def fetch(self, root: Path) -> None:
        if not (root / "test.txt").is_file():  # the last to be written
            for name, (url, md5) in SOURCES.items():
                fetch(url, md5, root / name)
            convert(root)

    def read_values(self, path: Path) -> np.ndarray:
        return read_mat(path, "segmentation") if path.suffix == ".mat" else read_label(path)


def convert(root: Path) -> None:
    """Make images/, labels/, trainval.txt and test.txt from the three `SOURCES`, and delete the large one.

    Images keep the owners' white frame, a few pixels wide. Labels are void there.
    """
    mapping = read_mat(root / "classMapping40.mat", "mapClass").ravel()
    classes = np.concatenate(([0], mapping)).astype(np.uint8)  # 0 is unlabeled
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    path = root / "nyu_depth_v2_labeled.mat"
    with require("h5py", "mat", f"Reading {path}").File(path) as file:
        pictures, labels = file["images"], file["labels"]  # as MATLAB lies in memory: (N, 3, W, H) and (N, W, H)
        for index in tqdm(range(len(labels)), "converting", disable=None):
            name = f"img_{FIRST_NUMBER + index}.png"
            Image.fromarray(pictures[index].transpose(2, 1, 0)).save(root / "images" / name)
            Image.fromarray(classes[labels[index].T]).save(root / "labels" / name)
    for variable, name in (("trainNdxs", "trainval.txt"), ("testNdxs", "test.txt")):
        numbers = read_mat(root / "splits.mat", variable).ravel().astype(int) - 1 + FIRST_NUMBER
        write_text(root / name, "".join(f"{number}\n" for number in numbers))
    path.unlink()
