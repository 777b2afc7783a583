"""Cityscapes, finely labeled: 19 classes of street scenes, 2048 x 1024; 2,975 train and 500 val images.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.
"""

import numpy as np

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode

# Class: labelId and color (cityscapesScripts, helpers/labels.py).
LABELS = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CLASSES = list(LABELS)
LAST_ID = 33

IMAGE_END, LABEL_END = "_leftImg8bit.png", "_gtFine_labelIds.png"


@register_datamodule("cityscapes")
class CityscapesDataModule(FileDataModule):
    """leftImg8bit with the labelIds of gtFine. The test labels are not public: in the archive all of them are void."""

    classes = CLASSES
    palette = np.array([color for _, color in LABELS.values()], np.uint8)
    # Every other id is void, as is -1, the licence plate, which a PNG holds as 255.
    code = LabelCode(
        dict.fromkeys([*range(LAST_ID + 1), 255], VOID)
        | {value: index for index, (value, _) in enumerate(LABELS.values())},
        len(LABELS),
    )
    has_test = False
    expects = (
        f"It should hold leftImg8bit/{{train,val}}/CITY/*{IMAGE_END} and gtFine/{{train,val}}/CITY/*{LABEL_END}. Get "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, with a login, from www.cityscapes-dataset.com."
    )

    def examples(self, split: str) -> list[Example]:
        images, labels = self.folder("leftImg8bit") / split, self.folder("gtFine") / split
        stems = sorted(
            str(path.relative_to(images)).removesuffix(IMAGE_END)
            for path in images.glob(f"*/*{IMAGE_END}")
            if not path.name.startswith(".")
        )
        if not stems:
            raise UserError(f"There are no images in {images}. {self.expects}")
        return [
            Example(stem.rpartition("/")[2], images / (stem + IMAGE_END), labels / (stem + LABEL_END)) for stem in stems
        ]
