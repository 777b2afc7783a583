"""Images per second and core of reading and augmenting training images, beside two yardsticks.

    python benchmarks/data.py CAMVID_FOLDER

decode        the JPEG alone: the floor
ours          the whole of `datamodule=camvid` in training: image and label read, random scale, crop, flip
ours, cached  the same with datamodule.cache
reference     torchvision's references/segmentation preset (v2 on tensors: decode, random resize, flip, random crop),
              written here with its steps and the same settings

on CamVid's own 480x360 frames and on 500x375 pictures (VOC's size) made from them. One process, one thread, rounds
interleaved, medians; the table goes to docs/performance.md.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from segrefine.core.config import read_group
from segrefine.data.build import build_datamodule
from segrefine.data.files import FileDataset
from segrefine.io.images import read_label

IMAGES, ROUNDS = 60, 7
CROP, SCALE = (256, 320), (0.5, 2.0)


def reference() -> Callable:
    """SegmentationPresetTrain of torchvision's references, with `SCALE` of the shorter side and `CROP`."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResize(min_size=int(SCALE[0] * 360), max_size=int(SCALE[1] * 360), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )

    def read(image: Path, label: Path) -> object:
        mask = tv_tensors.Mask(torch.from_numpy(read_label(label))[None])
        return transform(Image.open(image).convert("RGB"), mask)

    return read


def rate(work: Callable[[int], object]) -> float:
    started = time.perf_counter()
    for index in range(IMAGES):
        work(index)
    return IMAGES / (time.perf_counter() - started)


def enlarged(source: Path, target: Path, size: tuple[int, int]) -> None:
    """The first frames of train at another size, as JPEG of quality 95 and PNG labels."""
    for kind, resample, ending in (
        ("train", Image.Resampling.BICUBIC, "jpg"),
        ("trainannot", Image.Resampling.NEAREST, "png"),
    ):
        (target / kind).mkdir()
        for path in sorted((source / kind).iterdir())[:IMAGES]:
            Image.open(path).resize(size, resample).save(target / kind / f"{path.stem}.{ending}", quality=95)


def measure(root: Path, cache: Path) -> dict[str, list[float]]:
    options = {"root": str(root), "crop_size": list(CROP), "num_workers": 0}
    datamodule = build_datamodule(read_group("datamodule", "camvid") | options)
    dataset = datamodule.dataset("train", datamodule.train_transform)
    assert isinstance(dataset, FileDataset)
    cached = build_datamodule(read_group("datamodule", "camvid") | options | {"cache": str(cache)})
    kept = cached.dataset("train", cached.train_transform)
    read = reference()
    work: dict[str, Callable[[int], object]] = {
        "decode": lambda index: np.array(Image.open(dataset.examples[index].image)),
        "ours": lambda index: dataset[index],
        "ours, cached": lambda index: kept[index],
        "reference": lambda index: read(dataset.examples[index].image, dataset.examples[index].label),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, function in work.items():
            rates[name].append(rate(function))
    return {name: values[1:] for name, values in rates.items()}


def main(camvid: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| images | decode | ours | ours, cached | reference | ours / decode | cached / decode | ours / reference |")
    print("| --- " * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        enlarged(camvid, Path(folder), (500, 375))
        for name, root in (("CamVid, 480x360", camvid), ("500x375", Path(folder))):
            rates = {kind: statistics.median(values) for kind, values in measure(root, Path(folder) / "cache").items()}
            cells = [f"{value:.0f}" for value in rates.values()]
            pairs = (("ours", "decode"), ("ours, cached", "decode"), ("ours", "reference"))
            ratios = [f"{rates[one] / rates[other]:.2f}" for one, other in pairs]
            print(f"| {' | '.join([name, *cells, *ratios])} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
