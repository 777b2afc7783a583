"""Generated scenes: seven kinds of objects distinguished by shape alone. Nothing to download.

`segrefine.data.shapes` draws them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segrefine.core.options import Count, Whole
from segrefine.core.registry import register_datamodule
from segrefine.data.datamodule import SPLITS, SegmentationDataModule
from segrefine.data.dataset import SegmentationDataset, Transform
from segrefine.data.shapes.scenes import CLASSES, draw_scene


@register_datamodule("shapes")
class ShapesDataModule(SegmentationDataModule):
    """Generated scenes of 128 x 128 pixels. Each is drawn once, when first asked for, and then kept in memory."""

    classes = CLASSES
    in_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Options(SegmentationDataModule.Options):
        """Options of `conf/datamodule/shapes.yaml`: scenes in each split, and a seed, of which another gives others."""

        train_size: Count = 1500
        val_size: Count = 200
        test_size: Count = 200
        seed: Whole = 0

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__(options, run_seed, test_split)
        self._drawn: dict[str, dict[int, tuple[Tensor, Tensor]]] = {split: {} for split in SPLITS}

    def dataset(self, split: str, transform: Transform | None = None) -> "ShapesDataset":
        return ShapesDataset(split, self.options, self._drawn[split], transform)


class ShapesDataset(SegmentationDataset):
    """One split of the generated scenes. `drawn` holds the scenes drawn so far, by index, and may be shared."""

    def __init__(
        self,
        split: str,
        options: ShapesDataModule.Options,
        drawn: dict[int, tuple[Tensor, Tensor]],
        transform: Transform | None = None,
    ) -> None:
        size = getattr(options, f"{split}_size")
        super().__init__([f"{split}_{index:05d}" for index in range(size)], transform)
        self.key = (options.seed, SPLITS.index(split))
        self.drawn = drawn

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.drawn:
            image, label = draw_scene(np.random.default_rng((*self.key, index)))
            self.drawn[index] = torch.from_numpy(image), torch.from_numpy(label)
        return self.drawn[index]
