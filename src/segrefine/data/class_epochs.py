"""Epochs that are drawn by class: which training examples each of them holds. N examples, K classes."""

import numpy as np
import torch
from torch import Tensor

from segrefine.core.seeding import mix
from segrefine.data.sampler import TrainSampler

FIRST = 10
"""Epochs whose sizes are looked at: about one round over PASCAL VOC's 10,582 images, in which sizes vary by a fifth."""


class ClassEpochs:
    """The examples of every epoch, as RefineNet's release draws them (guosheng/refinenet, main/my_epoch_run_config.m).

    Examples are looked at in random order, those first that no epoch has held since all had been held. One is taken if
    fewer than `per_class` of those taken so far hold one of its classes. So every class is in `per_class` examples, or
    in all that hold it; one that is common is in more, beside rare ones. Where too few are taken, the next in order
    follow; if there are too many, some are skipped at random.

    Here all epochs have one `size`, since Lightning counts on it: the largest that the release's rule gives the first
    few, so that hardly any is cut. In the release sizes vary between the two limits. What an epoch holds follows from
    the seed and its number alone: the epochs before are drawn again.

    Args:
        holds: whether an example holds a class, (N, K) bool.
        per_class: examples of a class that are enough; 100 in the release (main/gen_net_opts_model_type1.m).
        limits: least and most examples of an epoch; 1,000 and 2,000 in the release (same place).
        seed: the run's.
    """

    def __init__(self, holds: np.ndarray, per_class: int, limits: tuple[int, int], seed: int) -> None:
        self._classes = [np.flatnonzero(row).tolist() for row in holds]
        self._num_classes, self._per_class, self.seed = holds.shape[1], per_class, seed
        self._limits = limits
        self._restart()
        self.size = max(len(self.examples(epoch)) for epoch in range(FIRST))
        self._limits = self.size, self.size
        self._restart()

    def examples(self, epoch: int) -> np.ndarray:
        """Which of the N an epoch holds, (size,) int64, in no order that matters."""
        if epoch < self._drawn - 1:
            self._restart()
        while self._drawn <= epoch:
            self._draw()
        return self._taken

    def _restart(self) -> None:
        self._drawn = 0
        self._fresh = np.ones(len(self._classes), bool)  # in no epoch since all had been

    def _draw(self) -> None:
        """Draw the next epoch."""
        generator = np.random.default_rng(mix(self.seed, self._drawn))
        order = self._order(generator)
        taken = np.array(self._by_class(order), np.int64)
        left = order[~np.isin(order, taken)]
        size = min(max(len(taken), self._limits[0]), self._limits[1])
        self._taken = np.concatenate((generator.permutation(taken), left))[:size]
        self._fresh[self._taken] = False
        if not self._fresh.any():
            self._fresh[:] = True
        self._drawn += 1

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        """All examples in random order, the fresh ones first."""
        order = generator.permutation(len(self._classes))
        return np.concatenate((order[self._fresh[order]], order[~self._fresh[order]]))

    def _by_class(self, order: np.ndarray) -> list[int]:
        """Those that bring a class of which there are not enough yet."""
        counts, taken = [0] * self._num_classes, []
        for example in order.tolist():
            classes = self._classes[example]
            if any(counts[index] < self._per_class for index in classes):
                taken.append(example)
                for index in classes:
                    counts[index] += 1
        return taken


class ClassSampler(TrainSampler):
    """As `TrainSampler`, over the examples that `epochs` gives each epoch."""

    def __init__(self, epochs: ClassEpochs, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0) -> None:
        super().__init__(epochs.size, epochs.seed, rank, world, epoch, skip)
        self.epochs = epochs

    def examples(self, generator: torch.Generator) -> Tensor:
        return torch.from_numpy(self.epochs.examples(self.epoch))[super().examples(generator)]
