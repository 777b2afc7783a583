"""Check a whole data set before training: sizes, class statistics, and every bad file by name."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from segrefine.core.errors import BadFileError, listing
from segrefine.core.labels import VOID
from segrefine.data.class_weights import median_frequency
from segrefine.data.datamodule import SPLITS, SegmentationDataModule


@dataclass
class SplitReport:
    """Contents of one split.

    Attributes:
        bad: why an example cannot be used, by its id.
        sizes: (height, width) of the other N images -> number of images.
        pixels: (N, K) pixels of each class.
        void: (N,) void pixels.
    """

    split: str
    bad: dict[str, str]
    sizes: Counter[tuple[int, ...]]
    pixels: np.ndarray
    void: np.ndarray


def check(datamodule: SegmentationDataModule) -> list[SplitReport]:
    """Read every image and label of every split, in parallel. The train split comes first."""
    return [_check_split(datamodule, split) for split in SPLITS if split != "test" or datamodule.has_test]


def render(reports: list[SplitReport], classes: list[str]) -> str:
    """Return the reports as text, with a table of classes and the class weights that follow from the train split."""
    lines = []
    for report in reports:
        sizes = listing([f"{height}x{width} ({count})" for (height, width), count in report.sizes.most_common()])
        void = report.void.sum() / max(report.void.sum() + report.pixels.sum(), 1)
        lines.append(f"{report.split}: {len(report.void)} good images; height x width: {sizes or 'none'}")
        lines.append(f"  void: {void:.2%} of all pixels; bad files: {len(report.bad)}")
        lines += [f"  BAD {message}" for message in report.bad.values()]
    heads = [f"{report.split + ' share':>14}{'images':>8}" for report in reports]
    lines += ["", f"{'class':<24}{'weight':>10}{''.join(heads)}"]
    weights = median_frequency(reports[0].pixels)
    for index, name in enumerate(classes):
        cells = []
        for report in reports:
            share = report.pixels[:, index].sum() / max(report.pixels.sum(), 1)
            cells.append(f"{share:>14.3%}{np.count_nonzero(report.pixels[:, index]):>8}")
        lines.append(f"{f'{index} {name}':<24}{weights[index]:>10.4f}{''.join(cells)}")
    pasted = ",".join(f"{weight:.4g}" for weight in weights)
    return "\n".join([*lines, "", f"'recipe.class_weights=[{pasted}]'  (or =median_frequency, the same)"])


def _check_split(datamodule: SegmentationDataModule, split: str) -> SplitReport:
    dataset = datamodule.dataset(split)

    def read(index: int) -> tuple[tuple[int, ...], np.ndarray] | str:
        """Return the size of the label and its pixels of each value, or what is wrong with the example."""
        try:
            label = dataset.read(index)[1].numpy()
        except BadFileError as error:
            return str(error)
        return label.shape, np.bincount(label.ravel(), minlength=VOID + 1)

    bad, sizes, histograms = dict[str, str](), Counter[tuple[int, ...]](), []
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        found_all = pool.map(read, range(len(dataset)))
        found_all = tqdm(found_all, split, len(dataset), leave=False, disable=None)  # silent but on a terminal
        for name, found in zip(dataset.ids, found_all, strict=True):
            if isinstance(found, str):
                bad[name] = found
            else:
                sizes[found[0]] += 1
                histograms.append(found[1])
    counts = np.array(histograms, np.int64).reshape(-1, VOID + 1)
    return SplitReport(split, bad, sizes, counts[:, : datamodule.num_classes], counts[:, VOID])
