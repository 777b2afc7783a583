"""Write predictions as benchmark servers expect them: one PNG an image, with the label values of the data set."""

from pathlib import Path

import numpy as np
from PIL import Image

from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.labels import voc_color_map
from segrefine.data.sets.ade20k import ADE20KDataModule
from segrefine.data.sets.cityscapes import CityscapesDataModule
from segrefine.data.sets.voc import VOCDataModule
from segrefine.io.images import save_image

BENCHMARKS = {
    "voc": VOCDataModule.code,  # class numbers, in VOC's palette
    "cityscapes": CityscapesDataModule.code,  # labelIds, not trainIds
    "ade20k": ADE20KDataModule.code,  # class numbers from 1
}


def check_benchmark(benchmark: str | None, num_classes: int) -> None:
    """Raise UserError for an unknown benchmark, or a network without the benchmark's classes."""
    if benchmark is None:
        return
    if benchmark not in BENCHMARKS:
        raise UserError(f"submission={benchmark} is not known.{did_you_mean(benchmark, BENCHMARKS)}")
    expected = BENCHMARKS[benchmark].num_classes
    if num_classes != expected:
        raise UserError(f"submission={benchmark} is for {expected} classes, but the network has {num_classes}.")


def write_submission(path: Path, labels: np.ndarray, benchmark: str) -> None:
    """Save `labels` (H, W) of classes 0..K-1 as the benchmark's PNG."""
    picture = Image.fromarray(BENCHMARKS[benchmark].encode(labels))
    if benchmark == "voc":
        picture.putpalette(voc_color_map().flatten().tolist())
    save_image(picture, path)
