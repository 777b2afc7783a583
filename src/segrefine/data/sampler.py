"""Choose the order in which training sees the examples, and the seed of each example's random augmentation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from segrefine.core.seeding import mix


class Draw(NamedTuple):
    """An example in training: its index in the split, and the seed of its random augmentation in this epoch."""

    example: int
    seed: int


class TrainSampler(Sampler[Draw]):
    """Yields `size` examples in another order each epoch, fixed by `seed` and the epoch's number, without repetition.

    Of `world` processes, the one of this `rank` takes every `world`-th example. The last few are skipped, so that all
    have the same number. Lightning sets the epoch through `set_epoch`. A run that resumes within an epoch skips its
    first `skip` examples, those that this process has already seen. `len` counts them, since Lightning counts from the
    start of the epoch.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0) -> None:
        self.size, self.seed, self.rank, self.world = size, seed, rank, world
        self.epoch, self.skip = epoch, skip

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = self.examples(generator)
        seeds = torch.randint(2**63 - 1, (self.size,), generator=generator)
        shared = slice(self.rank, len(self) * self.world, self.world)
        pairs = zip(order[shared].tolist(), seeds[shared].tolist(), strict=True)
        yield from [Draw(*pair) for pair in pairs][self.skip :]

    def examples(self, generator: torch.Generator) -> Tensor:
        """Return the examples of the epoch in their order, (size,) int64."""
        return torch.randperm(self.size, generator=generator)
