"""The Lightning data module that every data set extends: splits, loaders and class statistics."""

import logging
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID, voc_colour_map
from segrefine.core.machine import available_cores
from segrefine.core.signals import STOP_SIGNALS
from segrefine.data.class_weights import class_pixels, median_frequency
from segrefine.data.dataset import Item, LeftOut, SegmentationDataset, Transform
from segrefine.data.sampler import TrainSampler
from segrefine.data.transforms import PAD_COLOUR, Augmentation, TrainTransform, parse_crop_size

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

BLANK = (64, 64)
"""Height and width of what stands for a batch of which nothing is left, where there is no crop size: any that the
networks take."""


class SegmentationDataModule(LightningDataModule):
    """A subclass gives `classes` and `dataset(split)`; this class makes loaders and statistics of them.

    Batches are dicts: image (B, 3, H, W) uint8, label (B, H, W) uint8, id (list of str), index (B,) int64, and
    left_out, a `LeftOut` for each example that is not in it (`collate`).

    Args:
        options: of the group `datamodule`, see `Options`.
        run_seed: for the order of the training images and what is changed in them at random.
        test_split: the split that `test_dataloader` gives; None for test where that has labels, else val.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options that every data set has. The defaults are neutral: those to train with stand in conf/datamodule."""

        name: str | None = None
        batch_size: int = 8
        eval_batch_size: int = 1
        crop_size: int | Sequence[int] | None = None
        num_workers: int | str = "auto"
        augment: Mapping | None = None

        def __post_init__(self) -> None:
            require_count("batch_size", self.batch_size)
            require_count("eval_batch_size", self.eval_batch_size)

    options: Any

    in_memory = False
    """Whether reading an item costs so little that worker processes would only slow it down."""

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__()
        self.options, self.run_seed, self._test_split = options, run_seed, test_split
        self.name = options.name
        self.batch_size, self.eval_batch_size = options.batch_size, options.eval_batch_size
        self.num_workers = self._parse_workers(options.num_workers)
        self._epoch = self._batches = 0  # where training begins: the batches of that epoch which were seen already
        self.train_transform = TrainTransform(
            parse_crop_size(options.crop_size), Augmentation.from_options(options.augment)
        )

    def dataset(self, split: str, transform: Transform | None = None) -> SegmentationDataset:
        """The examples of "train", "val" or "test"."""
        raise NotImplementedError

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the model's outputs."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def palette(self) -> np.ndarray:
        """Colour of each class, (K, 3) uint8 RGB."""
        return voc_colour_map(self.num_classes)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split with labels."""
        return True

    @property
    def test_split(self) -> str:
        """The split that is scored at the end of a training, or by `evaluate`."""
        return self._test_split or ("test" if self.has_test else "val")

    def image_size(self, split: str) -> tuple[int, int]:
        """Height and width in pixels of the split's first image (that can be used)."""
        height, width = self.dataset(split).first_label().shape
        return height, width

    def setup(self, stage: str | None = None) -> None:
        """Cheap checks of the splits the stage needs; raises UserError."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "predict": ()}
        splits = (self.test_split,) if stage == "test" else needed[stage] if stage else SPLITS
        for split in splits:
            if split != "test" or self.has_test:
                self.dataset(split).check()

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled, augmented, full batches only."""
        dataset = self.dataset("train", self.train_transform)
        if len(dataset) < self.batch_size:
            raise UserError(
                f"datamodule.batch_size={self.batch_size} is more than the {len(dataset)} training images; "
                "set it to that number or less."
            )
        remedy = "Set datamodule.crop_size (or datamodule.batch_size=1)."
        sampler = TrainSampler(
            len(dataset), self.run_seed, *self._place(), self._epoch, self._batches * self.batch_size
        )
        return self._loader(dataset, self.batch_size, remedy, drop_last=True, sampler=sampler)

    def state_dict(self) -> dict[str, int]:
        """How far training is: epoch and batches of it, for the checkpoint."""
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        epoch, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        return {"epoch": epoch.processed, "batches": batches.completed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Called by Lightning before it asks for `train_dataloader`, which then begins there."""
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]

    def val_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader(self.test_split)

    def class_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the train split, as `class_weights.class_pixels` gives them: reads every label."""
        dataset = self.dataset("train")

        def histogram(index: int) -> np.ndarray:
            label = dataset.attempt(dataset.read_label, index)
            if isinstance(label, LeftOut):  # adds nothing
                return np.zeros(self.num_classes, np.int64)
            return np.bincount(label.numpy().ravel(), minlength=VOID)[: self.num_classes]

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            return class_pixels(np.stack(list(pool.map(histogram, range(len(dataset))))))

    def median_frequency_weights(self) -> Tensor:
        """Weight of each class in the loss, (K,) float32, from the train split; see `class_weights.median_frequency`.
        A class that never occurs gets 0, with a warning."""
        weights = median_frequency(*self.class_pixels())
        for index in np.flatnonzero(weights == 0):
            log.warning("Class '%s' never occurs in the training labels; its loss weight is 0.", self.classes[index])
        return torch.from_numpy(weights)

    def _eval_dataloader(self, split: str) -> DataLoader[Item]:
        """A split in order, at native size, nothing left out. Of several processes each takes every so many-th image,
        one more or less than another, so that none counts twice; PyTorch's sampler would repeat some."""
        dataset = self.dataset(split)
        rank, world = self._place()
        share = range(rank, len(dataset), world)
        return self._loader(dataset, self.eval_batch_size, "Set datamodule.eval_batch_size=1.", sampler=share)

    def _place(self) -> tuple[int, int]:
        """The rank of this process and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: SegmentationDataset, batch_size: int, remedy: str, **options: Any) -> DataLoader[Item]:
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
            collate_fn=partial(collate, remedy=remedy, blank=self.train_transform.crop_size or BLANK),
            **options,
        )

    def _parse_workers(self, num_workers: int | str) -> int:
        if num_workers == "auto":
            return 0 if self.in_memory else min(len(available_cores()), 8)
        return require_count("num_workers", num_workers, least=0, otherwise="'auto' or ")


GRACE = 30
"""Seconds from SIGTERM to the end of a reading process; as many as SLURM leaves (KillWait) before it kills all."""


def outlive_signals(worker: int) -> None:
    """In a reading process: what asks the run to stop reaches all its processes, from a terminal and under SLURM, but
    the first one needs batches to come to the end of its step, and then ends the others."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def require_count(option: str, value: object, least: int = 1, otherwise: str = "") -> int:
    """The value, if it is a whole number of at least `least`; else a UserError that names the option."""
    if not isinstance(value, int) or value < least:
        raise UserError(f"datamodule.{option}={value} should be {otherwise}a whole number, {least} or more.")
    return value


def collate(found: list[Item | LeftOut], remedy: str, blank: tuple[int, int] = BLANK) -> dict:
    """Stacks items into a batch; images of different sizes raise a UserError that ends in `remedy`.

    What cannot be used is named in `left_out`. If that is all, the batch has no id and no index, but images of the size
    `blank` (height, width) that are wholly void: every process of a distributed run takes as many steps, this one with
    a loss of 0 and no gradient.
    """
    items = [item for item in found if not isinstance(item, LeftOut)]
    left_out = {"left_out": [item for item in found if isinstance(item, LeftOut)]}
    if not items:
        colour = torch.tensor(PAD_COLOUR, dtype=torch.uint8)[:, None, None]
        image = colour.repeat(len(found), 1, *blank)  # as many as ever: batch norm may need more than one
        label = torch.full((len(found), *blank), VOID, dtype=torch.uint8)
        return {"image": image, "label": label, "id": [], "index": torch.empty(0, dtype=torch.int64)} | left_out
    sizes = {item["id"]: tuple(item["label"].shape) for item in items}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise UserError(f"Images of one batch differ in size (height x width): {listed}. {remedy}")
    return default_collate(items) | left_out
