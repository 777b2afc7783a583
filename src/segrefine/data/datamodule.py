"""Define the Lightning data module that every data set extends: splits, loaders and class statistics."""

import logging
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID, voc_color_map
from segrefine.core.machine import available_cores
from segrefine.core.options import Auto, Count, Size, Whole
from segrefine.core.signals import STOP_SIGNALS
from segrefine.data.class_epochs import ClassEpochs, ClassSampler
from segrefine.data.class_weights import median_frequency
from segrefine.data.dataset import Item, SegmentationDataset, Transform
from segrefine.data.sampler import TrainSampler
from segrefine.data.transforms import Augmentation, TrainTransform, parse_crop_size

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class SegmentationDataModule(LightningDataModule):
    """Makes loaders and statistics from the `classes` and `dataset(split)` that a subclass defines.

    Batches are dicts: image (B, C, H, W) uint8, label (B, H, W) uint8, id (list of str) and index (B,) int64.

    Args:
        options: of the group `datamodule`, see `Options`.
        run_seed: for the order and the random augmentation of the training images.
        test_split: the split of `test_dataloader`; None for test if that has labels, otherwise val.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Options that every data set has. The defaults are neutral: those for training are in conf/datamodule."""

        name: str | None = None
        batch_size: Count = 8
        eval_batch_size: Count = 1
        crop_size: Size = None
        num_workers: Whole | Auto = "auto"
        augment: Augmentation | None = None
        images_per_class: Count | None = None
        images_per_epoch: Sequence[Count] = (1000, 2000)

        def __post_init__(self) -> None:
            limits = self.images_per_epoch
            if len(limits) != 2 or limits[0] > limits[1]:
                raise UserError(
                    f"datamodule.images_per_epoch={list(limits)} should be [least, most], the lower number first."
                )

    options: Any

    in_channels = 3
    """C of the images: 3 for RGB, 1 for gray, more for RGB with further channels behind it."""

    in_memory = False
    """Whether reading an item is so cheap that worker processes would only slow it down."""

    def __init__(self, options: Options, run_seed: int = 0, test_split: str | None = None) -> None:
        super().__init__()
        self.options, self.run_seed, self._test_split = options, run_seed, test_split
        self.name = options.name
        self.batch_size, self.eval_batch_size = options.batch_size, options.eval_batch_size
        workers = 0 if self.in_memory else min(len(available_cores()), 8)
        self.num_workers = workers if options.num_workers == "auto" else options.num_workers
        self._epoch = self._batches = 0  # where training begins: the batches of that epoch which were seen already
        self._eval_batch_sizes: dict[str, int] = {}  # by split
        self.train_transform = TrainTransform(parse_crop_size(options.crop_size), options.augment or Augmentation())

    def dataset(self, split: str, transform: Transform | None = None) -> SegmentationDataset:
        """Return the examples of "train", "val" or "test"."""
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
        """Color of each class, (K, 3) uint8 RGB."""
        return voc_color_map(self.num_classes)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split with labels."""
        return True

    @property
    def test_split(self) -> str:
        """The split that is scored at the end of training, or by `evaluate`."""
        return self._test_split or ("test" if self.has_test else "val")

    def image_size(self, split: str) -> tuple[int, int]:
        """Return height and width in pixels of the split's first image."""
        height, width = self.dataset(split).read(0)[1].shape
        return height, width

    def setup(self, stage: str | None = None) -> None:
        """Run cheap checks of the splits that the stage needs; UserError if one fails."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "predict": ()}
        splits = (self.test_split,) if stage == "test" else needed[stage] if stage else SPLITS
        for split in splits:
            if split != "test" or self.has_test:
                self.dataset(split).check()
        shared = {"fit": ("train", "val", self.test_split), "validate": ("val",), "test": (self.test_split,)}
        world = self._place()[1]
        for split in shared.get(stage or "", ()) if world > 1 else ():  # a training ends with the test split
            if (count := len(self.dataset(split))) < world:
                raise UserError(f"{split} has {count} images for {world} processes. Use fewer (trainer.devices).")

    def train_dataloader(self) -> DataLoader[Item]:
        """Return the loader of shuffled and augmented training images. All batches are full.

        Raises:
            UserError: an epoch has fewer images than a batch, or the images of a batch would differ in size.
        """
        dataset = self.dataset("train", self.train_transform)
        sampler = self._train_sampler(len(dataset))
        if len(sampler) < self.batch_size:
            share = f", shared by {sampler.world} processes" if sampler.world > 1 else ""
            raise UserError(
                f"datamodule.batch_size={self.batch_size} is more than the {sampler.size} training images of an epoch"
                f"{share}. Set it to {len(sampler)} or less."
            )
        remedy = "Set datamodule.crop_size (or datamodule.batch_size=1)."
        if self.batch_size > 1 and self.train_transform.crop_size is None and not dataset.one_size():
            raise UserError(f"The training images differ in size. {remedy}")
        return self._loader(dataset, self.batch_size, remedy, drop_last=True, sampler=sampler)

    def _train_sampler(self, size: int) -> TrainSampler:
        """Return the order of the `size` training images, from where training begins."""
        place = (*self._place(), self._epoch, self._batches * self.batch_size)
        per_class, (least, most) = self.options.images_per_class, self.options.images_per_epoch
        if per_class is None or size <= least:  # an epoch of the release has all images, too, where they are so few
            return TrainSampler(size, self.run_seed, *place)
        epochs = ClassEpochs(self.histograms > 0, per_class, (least, most), self.run_seed)
        log.info(f"datamodule.images_per_class={per_class}: an epoch has {epochs.size} of the {size} training images.")
        return ClassSampler(epochs, *place)

    def state_dict(self) -> dict[str, int]:
        """Return the training progress at the end of a batch or of a validation: the epoch and its batches so far."""
        assert self.trainer is not None
        return {"epoch": self.trainer.current_epoch, "batches": self.trainer.fit_loop.batch_idx + 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the training progress. Lightning calls this before `train_dataloader`, which then begins there."""
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]

    def val_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        return self._eval_dataloader(self.test_split)

    @cached_property
    def histograms(self) -> np.ndarray:
        """Pixels of each class in each image of the train split, (N, K), from every label."""
        dataset = self.dataset("train")

        def histogram(index: int) -> np.ndarray:
            return np.bincount(dataset.read_label(index).numpy().ravel(), minlength=VOID)[: self.num_classes]

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            return np.stack(list(pool.map(histogram, range(len(dataset)))))

    def median_frequency_weights(self) -> Tensor:
        """Return the weight of each class in the loss, (K,) float32, from the train split.

        See `class_weights.median_frequency`. A class that never occurs gets 0, with a warning.
        """
        weights = median_frequency(self.histograms)
        for index in np.flatnonzero(weights == 0):
            log.warning("Class '%s' never occurs in the training labels; its loss weight is 0.", self.classes[index])
        return torch.from_numpy(weights)

    def _eval_dataloader(self, split: str) -> DataLoader[Item]:
        """Return the loader of a whole split in order, at native size.

        Each of several processes takes every `world`-th image, so some have one more than others and none counts twice.
        PyTorch's sampler would repeat some.
        """
        dataset = self.dataset(split)
        rank, world = self._place()
        share = range(rank, len(dataset), world)
        size = self._eval_batch_size(split, dataset)
        return self._loader(dataset, size, "Set datamodule.eval_batch_size=1.", sampler=share)

    def _eval_batch_size(self, split: str, dataset: SegmentationDataset) -> int:
        """Return `eval_batch_size`, or 1 if images differ in size and cannot form a batch. Checks each split once."""
        size = self._eval_batch_sizes.get(split, self.eval_batch_size)
        if size > 1 and split not in self._eval_batch_sizes and not dataset.one_size():
            log.info(f"The images of {split} differ in size, so they are scored one by one, not {size} at a time.")
            size = 1
        return self._eval_batch_sizes.setdefault(split, size)

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: SegmentationDataset, batch_size: int, remedy: str, **options: Any) -> DataLoader[Item]:
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
            collate_fn=partial(collate, remedy=remedy),
            **options,
        )


LOADER_GRACE = 600
"""Seconds from SIGTERM to the end of a loader process: longer than most validations, after which a run stops. When the
main process has ended, PyTorch's loader ends the others sooner."""


def outlive_signals(worker: int) -> None:
    """Keep a loader process alive when the run is asked to stop.

    From a terminal and under SLURM the signal reaches all processes of the run. The main process still needs batches to
    finish its step, and then ends the others.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LOADER_GRACE))


def collate(items: list[Item], remedy: str) -> dict:
    """Stack items into a batch; UserError, which ends in `remedy`, if the images differ in size."""
    sizes = {item["id"]: tuple(item["label"].shape) for item in items}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise UserError(f"Images of one batch differ in size (height x width): {listed}. {remedy}")
    return default_collate(items)
