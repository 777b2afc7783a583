"""PASCAL-Person-Part: VOC 2010's images of people, six parts of the body and background; 1,716 train, 1,817 val images.

Chen et al., Detect What You Can, CVPR 2014; merged to six parts: Chen et al., Attention to Scale, CVPR 2016.
"""

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.data.sets.voc import voc_folder

CLASSES = names("background, head, torso, upper arm, lower arm, upper leg, lower leg")


@register_datamodule("person_part")
class PersonPartDataModule(FileDataModule):
    """The lists and label PNGs of DeepLab's authors over VOC 2010's images."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES))
    has_test = False
    expects = (
        "It should hold VOCdevkit/VOC2010/JPEGImages/ (host.robots.ox.ac.uk/pascal/VOC), and of pascal_person_part.zip "
        "(liangchiehchen.com/projects/DeepLab_Datasets.html) pascal_person_part_gt/*.png and "
        "pascal_person_part_trainval_list/{train,val}.txt."
    )

    def examples(self, split: str) -> list[Example]:
        inner = "pascal_person_part"
        labels = self.folder(f"{inner}_gt", f"{inner}/{inner}_gt")
        list_file = self.folder(f"{inner}_trainval_list", f"{inner}/{inner}_trainval_list") / f"{split}.txt"
        return self.listed(list_file, voc_folder(self, 2010) / "JPEGImages", labels)
