"""The order of training: every example once an epoch, shared out between processes, and taken up anywhere."""

import pytest

from segrefine.core.seeding import mix
from segrefine.data.sampler import TrainSampler


@pytest.mark.parametrize(("size", "world"), [(12, 1), (12, 3), (13, 4), (3, 3)])
def test_processes_share_an_epoch_without_overlap(size: int, world: int) -> None:
    shares = [[draw.example for draw in TrainSampler(size, 5, rank, world)] for rank in range(world)]
    assert {len(share) for share in shares} == {len(TrainSampler(size, 5, 0, world))} == {size // world}
    seen = [example for share in shares for example in share]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(size))
    one = [draw.example for draw in TrainSampler(size, 5)]
    assert [share[turn] for turn in range(size // world) for share in shares] == one[: len(seen)]  # the same order


def test_an_epoch_is_taken_up_where_it_was_left() -> None:
    whole = TrainSampler(20, seed=3)
    whole.set_epoch(4)
    rest = TrainSampler(20, seed=3, epoch=4, skip=8)
    rest.set_epoch(4)  # as Lightning does
    assert list(rest) == list(whole)[8:]
    assert len(rest) == 20
    rest.set_epoch(5)
    assert len(list(rest)) == 20


def test_seeds_and_epochs_have_nothing_in_common() -> None:
    orders = [list(TrainSampler(50, seed, epoch=epoch)) for seed in range(3) for epoch in range(3)]
    draws = [draw.seed for order in orders for draw in order]
    assert len(set(draws)) == len(draws)
    assert len({tuple(draw.example for draw in order) for order in orders}) == 9
    assert len({mix(*numbers) for numbers in ((0, 1), (1, 0), (0, 0, 1), (1,), (2**63,))}) == 5
