"""PASCAL VOC 2011 and 2012 segmentation, alone or with the labels of SBD: 20 kinds of objects and background.

Everingham et al., The PASCAL Visual Object Classes Challenge. SBD: Hariharan et al., Semantic Contours from Inverse
Detectors, ICCV 2011, which labels 11,355 images of VOC 2011.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.io.download import Archive
from segrefine.io.images import read_label, read_mat

CLASSES = names("""
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor
""")

SBD_FOLDERS = ("benchmark_RELEASE/dataset", "SBD/dataset", "sbd")


def voc_folder(module: FileDataModule, year: int) -> Path:
    """Return the folder of a year's development kit, with JPEGImages and ImageSets: below `root`, or `root` itself."""
    return module.folder(*voc_places(year), ".")


def voc_places(year: int) -> tuple[str, ...]:
    """Return the places below `root` where the development kit of a year may be."""
    return f"VOCdevkit/VOC{year}", f"TrainVal/VOCdevkit/VOC{year}", f"VOC{year}"


def voc_archive(year: int) -> Archive:
    """Return the archive of a year's kit with its train and val images, as torchvision lists it."""
    about = DATASET_YEAR_DICT[str(year)]
    also = (*voc_places(year), "JPEGImages")  # the last where root is the folder itself
    return Archive(about["url"], about["md5"], about["base_dir"], also=also)


@register_datamodule("voc")
class VOCDataModule(FileDataModule):
    """VOC of a `year`, with train and val from its lists. The test labels are not public."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES))
    has_test = False
    expects = (
        "It should hold VOCdevkit/VOC2012 (or VOC2011) with JPEGImages/, SegmentationClass/ and ImageSets/"
        "Segmentation/, as the archive has them. Get it from host.robots.ox.ac.uk/pascal/VOC."
    )

    @dataclass(frozen=True, kw_only=True)
    class Options(FileDataModule.Options):
        """Options of `conf/datamodule/voc2012.yaml`."""

        year: int

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__(options, run_seed, test_split)
        self.archives = (voc_archive(options.year),)

    def examples(self, split: str) -> list[Example]:
        voc = voc_folder(self, self.options.year)
        lists = voc / "ImageSets/Segmentation"
        return self.listed(lists / f"{split}.txt", voc / "JPEGImages", voc / "SegmentationClass")


@register_datamodule("voc_sbd")
class VOCWithSBDDataModule(VOCDataModule):
    """VOC with the labels of SBD beside its own, in either of the two ways that papers use.

    - merge="augmented": the common "trainaug". Train is VOC's train and all of SBD without VOC's val (10,582 images
      with VOC 2012), with VOC's label if there is one. Val is VOC's.
    - merge="seg11valid": FCN's split. Train is SBD's train (8,498 images). Val is VOC 2011's val without it (736
      images) (CVPR 2015, section 5).
    """

    expects = (
        f"{VOCDataModule.expects} SBD's img/, cls/, train.txt and val.txt belong into benchmark_RELEASE/dataset (as "
        "its archive has them), SBD/dataset or sbd."
    )

    @dataclass(frozen=True, kw_only=True)
    class Options(VOCDataModule.Options):
        """Options of `conf/datamodule/voc2012_aug.yaml` and `voc2011.yaml`."""

        merge: Literal["augmented", "seg11valid"]

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__(options, run_seed, test_split)
        self.archives = (*self.archives, Archive(SBDataset.url, SBDataset.md5, "benchmark_RELEASE", also=SBD_FOLDERS))

    def examples(self, split: str) -> list[Example]:
        sbd = self.folder(*SBD_FOLDERS)
        parts = {part: self.listed(sbd / f"{part}.txt", sbd / "img", sbd / "cls", ".mat") for part in ("train", "val")}
        own = super().examples(split)
        if self.options.merge == "seg11valid":
            if split == "train":
                return parts["train"]
            taken = {example.id for example in parts["train"]}
            return [example for example in own if example.id not in taken]
        if split != "train":
            return own
        taken = {example.id for example in [*own, *super().examples("val")]}
        return own + [example for part in parts.values() for example in part if example.id not in taken]

    def read_values(self, path: Path) -> np.ndarray:
        return read_mat(path, "GTcls.Segmentation") if path.suffix == ".mat" else read_label(path)
