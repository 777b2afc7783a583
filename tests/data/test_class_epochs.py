"""Epochs drawn by class against an epoch drawn by hand, and what must hold for any."""

from collections import Counter

import numpy as np
import pytest
import torch
from test_datamodule import ListedDataModule

from segrefine.core.errors import UserError
from segrefine.data.class_epochs import ClassEpochs, ClassSampler

RARE = 7


def held() -> np.ndarray:
    """200 examples: class 0 in all, 1 in every second one, 2 in seven, 3 in none."""
    holds = np.zeros((200, 4), bool)
    holds[:, 0], holds[::2, 1], holds[: 10 * RARE : 10, 2] = True, True, True
    return holds


def test_an_epoch_is_that_of_a_plain_walk() -> None:
    """Two classes, of two each: in this order the examples 0 (a), 1 (a), 3 (b), 5 (a, b) bring something new."""
    holds = np.zeros((7, 2), bool)
    holds[[0, 1, 2, 5, 6], 0] = holds[[3, 5, 6], 1] = True
    epochs = ClassEpochs(holds, 2, (1, 7), seed=0)
    assert epochs._by_class(np.arange(7)) == [0, 1, 3, 5]
    assert epochs._by_class(np.arange(7)[::-1]) == [6, 5]


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_class_is_in_enough_examples_or_in_all_that_hold_it(epoch: int) -> None:
    holds, epochs = held(), ClassEpochs(held(), 20, (1, 200), seed=3)
    taken = epochs._by_class(np.random.default_rng(epoch).permutation(len(holds)))
    counts = holds[taken].sum(0)
    assert counts[0] >= 20
    assert 20 <= counts[1] <= 20 + RARE
    assert (counts[2], counts[3]) == (RARE, 0)
    assert len(taken) < 70  # not all 200: each but the seven was wanted for class 0 or 1


@pytest.mark.parametrize(("limits", "size"), [((60, 100), 60), ((1, 25), 25), ((300, 400), 200)])
def test_epochs_are_filled_up_and_cut_to_the_limits(limits: tuple[int, int], size: int) -> None:
    epochs = ClassEpochs(held(), 20, limits, seed=0)
    for epoch in range(6):
        assert len(set(epochs.examples(epoch).tolist())) == len(epochs.examples(epoch)) == epochs.size == size


def test_examples_not_seen_come_before_those_that_were() -> None:
    """Of 200, 60 an epoch: after four all were seen, and at most the rare ones and what fills up were seen often."""
    epochs = ClassEpochs(held(), 20, (60, 60), seed=0)
    seen = Counter(example for epoch in range(4) for example in epochs.examples(epoch).tolist())
    assert len(seen) == 200
    assert len({*epochs.examples(0).tolist(), *epochs.examples(1).tolist()}) >= 120 - RARE


def test_an_epoch_follows_from_the_seed_and_its_number() -> None:
    forward = ClassEpochs(held(), 20, (1, 200), seed=4)
    orders = [forward.examples(epoch).tolist() for epoch in range(8)]
    assert {len(order) for order in orders} == {forward.size}
    assert len({tuple(sorted(order)) for order in orders}) == 8
    resumed = ClassEpochs(held(), 20, (1, 200), seed=4)
    assert [resumed.examples(epoch).tolist() for epoch in (5, 5, 2, 7)] == [orders[number] for number in (5, 5, 2, 7)]
    assert ClassEpochs(held(), 20, (1, 200), seed=5).examples(0).tolist() != orders[0]


@pytest.mark.parametrize("world", [1, 3])
def test_processes_share_an_epoch_drawn_by_class_and_take_it_up_anywhere(world: int) -> None:
    def sampler(*place: int) -> ClassSampler:
        return ClassSampler(ClassEpochs(held(), 20, (50, 50), seed=1), *place)

    one = [draw.example for draw in sampler(0, 1, 4)]
    assert sorted(one) == sorted(ClassEpochs(held(), 20, (50, 50), seed=1).examples(4).tolist())
    shares = [list(sampler(rank, world, 4)) for rank in range(world)]
    assert [share[turn].example for turn in range(50 // world) for share in shares] == one[: 50 // world * world]
    assert list(sampler(world - 1, world, 4, 7)) == shares[-1][7:]
    whole = sampler(world - 1, world)
    whole.set_epoch(4)
    assert list(whole) == shares[-1]
    assert len(whole) == 50 // world


def module(**options: object) -> ListedDataModule:
    """Thirty images: class a everywhere, class b in the first three too."""
    labels = [torch.zeros(4, 5, dtype=torch.uint8) for _ in range(30)]
    for label in labels[:3]:
        label[1, 2] = 1
    return ListedDataModule(labels, batch_size=2, num_workers=0, **options)


def test_a_data_module_draws_its_epochs_by_class() -> None:
    loader = module(images_per_class=5, images_per_epoch=[6, 10]).train_dataloader()
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen = [index for batch in loader for index in batch["index"].tolist()]
        assert len(set(seen)) == len(seen) == 2 * len(loader) == 8  # the three may come when five others have come
        assert {0, 1, 2} <= set(seen)


def test_labels_are_read_once_for_epochs_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(images_per_class=5, images_per_epoch=[6, 10])
    dataset, read = data.dataset("train"), []
    monkeypatch.setattr(data, "dataset", lambda *_: dataset)
    original = dataset.read_label
    monkeypatch.setattr(dataset, "read_label", lambda index: read.append(index) or original(index))
    data.train_dataloader()
    assert data.median_frequency_weights()[2:].tolist() == [0, 0]
    assert sorted(read) == list(range(30))


def test_few_images_are_all_in_every_epoch_and_no_label_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the release, where an epoch has 1,000 at least."""
    data = module(images_per_class=5)
    monkeypatch.setattr(type(data.dataset("train")), "read_label", None)
    assert sorted(index for batch in data.train_dataloader() for index in batch["index"].tolist()) == list(range(30))


def test_limits_and_batches_that_cannot_be_are_refused() -> None:
    for limits in ([5], [6, 5]):
        with pytest.raises(UserError, match=r"datamodule\.images_per_epoch=.*should be \[least, most\]"):
            module(images_per_epoch=limits)
    labels = [torch.zeros(2, 2, dtype=torch.uint8)] * 9
    data = ListedDataModule(labels, batch_size=4, images_per_class=1, images_per_epoch=[1, 3])
    with pytest.raises(UserError, match=r"batch_size=4 is more than the 1 training images of an epoch"):
        data.train_dataloader()
