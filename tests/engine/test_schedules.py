"""Schedules by value, written out."""

import pytest
import torch

from segrefine.core.errors import UserError
from segrefine.engine.optim import Schedule


def values(steps: int, name: str, total_steps: int, **options: object) -> list[float]:
    factor = Schedule(name=name, **options).factor(total_steps)  # type: ignore[arg-type]
    return [factor(step) for step in range(steps)]


def test_poly() -> None:
    assert values(6, "poly", 4, power=2) == pytest.approx([1, 0.5625, 0.25, 0.0625, 0, 0])
    assert values(3, "poly", 2) == pytest.approx([1, 0.535886731, 0])  # 0.5 ** 0.9


def test_step_passes_a_milestone_at_its_very_step() -> None:
    assert values(6, "step", 5, milestones=(0.4, 0.8), gamma=0.5) == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])
    # 0.1 * 30 > 3 in floating point: the milestone must not slip to step 4
    assert values(5, "step", 30, milestones=[0.1]) == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_step_between_steps_waits_for_the_next() -> None:
    assert values(4, "step", 4, milestones=(1 / 3,)) == pytest.approx([1, 1, 0.1, 0.1])


def test_constant_and_warm_up() -> None:
    assert values(4, "constant", 2) == [1, 1, 1, 1]
    assert values(5, "constant", 10, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1]
    assert values(3, "poly", 4, power=1, warmup_steps=2) == pytest.approx([0.5, 0.75, 0.5])
    assert values(3, "step", 4, milestones=(0.25,), warmup_steps=3) == pytest.approx([1 / 3, 0.1 * 2 / 3, 0.1])


def test_drives_an_optimizer_group_by_group() -> None:
    encoder, decoder = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [encoder], "lr": 0.1}, {"params": [decoder], "lr": 1.0}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule(name="poly", power=1).factor(2))
    seen = []
    for _ in range(3):
        seen.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx([0.1, 1]), pytest.approx([0.05, 0.5]), pytest.approx([0, 0])]


@pytest.mark.parametrize(("name", "total", "message"), [("poly", 0, "at least 1"), ("step", 10, "milestones")])
def test_mistakes_are_named(name: str, total: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(name=name).factor(total)  # type: ignore[arg-type]
