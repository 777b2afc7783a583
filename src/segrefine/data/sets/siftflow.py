"""SIFT Flow's outdoor scenes, 256 x 256: 33 semantic or 3 geometric classes; 2,488 train and 200 test images.

Liu, Yuen, Torralba: Nonparametric Scene Parsing, PAMI 2011; geometry: Tighe and Lazebnik, SuperParsing, IJCV 2013.
"""

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.io.images import read_mat

SEMANTIC = names("""
awning, balcony, bird, boat, bridge, building, bus, car, cow, crosswalk, desert, door, fence, field, grass, moon,
mountain, person, plant, pole, river, road, rock, sand, sea, sidewalk, sign, sky, staircase, streetlight, sun, tree,
window
""")
GEOMETRIC = ["sky", "horizontal", "vertical"]

PICTURES = "spatial_envelope_256x256_static_8outdoorcategories"


@register_datamodule("siftflow")
class SIFTFlowDataModule(FileDataModule):
    """SIFT Flow as FCN uses it: the test images are val. task="semantic" or "geometric" selects the labels.

    Three of the semantic classes, cow, desert and moon, never occur in test, so they count in no mean over it.
    """

    has_test = False
    expects = (
        f"It should hold Images/{PICTURES}/*.jpg, SemanticLabels/{PICTURES}/*.mat, GeoLabels/{PICTURES}/*.mat (for "
        "datamodule.task=geometric) and TestSet1.txt, as the archive SiftFlowDataset.zip has them "
        "(www.cs.unc.edu/~jtighe/Papers/ECCV10)."
    )

    @dataclass(frozen=True, kw_only=True)
    class Options(FileDataModule.Options):
        """Options of `conf/datamodule/siftflow.yaml`."""

        task: Literal["semantic", "geometric"] = "semantic"

    @property
    def geometric(self) -> bool:
        return self.options.task == "geometric"

    @property
    def classes(self) -> list[str]:
        return GEOMETRIC if self.geometric else SEMANTIC

    @property
    def code(self) -> LabelCode:
        return LabelCode.counted(self.num_classes, first=1, void=(0,))

    def examples(self, split: str) -> list[Example]:
        folder = self.folder("SiftFlowDataset", ".")
        kind = "GeoLabels" if self.geometric else "SemanticLabels"
        # Its lines are paths with Windows' separators.
        held_out = {PureWindowsPath(line).stem for line in self.stems(folder / "TestSet1.txt")}
        examples = self.pairs(folder / "Images" / PICTURES, folder / kind / PICTURES)
        return [example for example in examples if (example.id in held_out) == (split == "val")]

    def read_values(self, path: Path) -> np.ndarray:
        """Read the map S. The geometric map has -1 for void, which becomes 0 as in the semantic one."""
        values = read_mat(path, "S").astype(np.int32)
        return np.where(values == -1, 0, values) if self.geometric else values
