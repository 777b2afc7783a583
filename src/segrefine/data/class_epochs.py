"""Choose the training examples of each epoch by class.

Shapes: N examples, K classes.
"""

import numpy as np
import torch
from torch import Tensor

from segrefine.core.seeding import mix
from segrefine.data.sampler import TrainSampler

FIRST = 10
"""Epochs whose sizes are examined: about one pass over PASCAL VOC's 10,582 images, in which sizes vary by a fifth."""


class ClassEpochs:
    """The examples of every epoch, drawn as in RefineNet's release (guosheng/refinenet, main/my_epoch_run_config.m).

    Examples are visited in random order. Those that no epoch has held since the last full pass come first. An example
    is taken if any of its classes is in fewer than `per_class` of those taken so far. So every class is in `per_class`
    examples, or in all that hold it. A common class is in more, beside rare ones. If too few are taken, the next in
    order follow. If too many are taken, some are skipped at random.

    Here all epochs have one `size`, since Lightning relies on it: the largest that the release's rule gives the first
    few epochs, so that hardly any is cut. In the release, sizes vary between the two limits. The content of an epoch
    follows from the seed and its number alone: the earlier epochs are drawn again.

    Args:
        holds: (N, K) bool, whether an example holds a class.
        per_class: how many examples of a class are enough; 100 in the release (main/gen_net_opts_model_type1.m).
        limits: least and most examples of an epoch; 1,000 and 2,000 in the release (same file).
        seed: the seed of the run.
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
        """Return the indices, among the N, of the examples of an epoch: (size,) int64, in no particular order."""
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
        order = generator.permutation(len(self._classes))
        order = order[np.argsort(~self._fresh[order], kind="stable")]  # the fresh ones first
        taken = np.array(self._by_class(order), np.int64)
        left = order[~np.isin(order, taken)]
        size = min(max(len(taken), self._limits[0]), self._limits[1])
        self._taken = np.concatenate((generator.permutation(taken), left))[:size]
        self._fresh[self._taken] = False
        if not self._fresh.any():
            self._fresh[:] = True
        self._drawn += 1

    def _by_class(self, order: np.ndarray) -> list[int]:
        """Return the examples that add to a class with too few examples so far."""
        counts, taken = [0] * self._num_classes, []
        for example in order.tolist():
            classes = self._classes[example]
            if any(counts[index] < self._per_class for index in classes):
                taken.append(example)
                for index in classes:
                    counts[index] += 1
        return taken


class ClassSampler(TrainSampler):
    """Like `TrainSampler`, over the examples that `epochs` gives each epoch."""

    def __init__(self, epochs: ClassEpochs, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0) -> None:
        super().__init__(epochs.size, epochs.seed, rank, world, epoch, skip)
        self.epochs = epochs

    def examples(self, generator: torch.Generator) -> Tensor:
        return torch.from_numpy(self.epochs.examples(self.epoch))[super().examples(generator)]
