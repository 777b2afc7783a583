"""Learning-rate rules, as factors of the base rate by optimiser step."""

from collections.abc import Callable, Sequence

from segrefine.errors import UserError, did_you_mean

SCHEDULES = ("poly", "step", "constant")


def schedule_factor(
    name: str,
    total_steps: int,
    *,
    power: float = 0.9,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> Callable[[int], float]:
    """The function step -> factor that `torch.optim.lr_scheduler.LambdaLR` takes, over `total_steps` optimiser steps.

    - `poly`: (1 - step / total_steps) ** power; power 0.9 is DeepLab's (Chen et al., PAMI 2018, section 4.1).
    - `step`: `gamma` per milestone passed. Milestones are fractions of the training, e.g. (1/3, 2/3), so that a recipe
      holds for any length; a step that falls on a milestone has passed it. 0.1 is RefineNet's (5e-4, then 5e-5).
    - `constant`: 1, FCN's.

    Over the first `warmup_steps` the factor is also multiplied by 1/warmup_steps, 2/warmup_steps, .. 1.
    Raises UserError for an unknown name, a total below 1, a negative warm-up, `step` without milestones in (0, 1).
    """
    if name not in SCHEDULES:
        raise UserError(f"Unknown schedule {name!r}.{did_you_mean(name, SCHEDULES)}")
    if total_steps < 1:
        raise UserError(f"A schedule needs at least 1 training step, got {total_steps}.")
    if warmup_steps < 0:
        raise UserError(f"warmup_steps must be 0 or more, got {warmup_steps}.")
    if name == "step" and not (milestones and all(0 < milestone < 1 for milestone in milestones)):
        raise UserError(
            f"The step schedule needs milestones between 0 and 1 (fractions of the training), got {milestones}."
        )

    def factor(step: int) -> float:
        done = min(step / total_steps, 1.0)  # LambdaLR asks once more after the last step
        warmup = min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
        if name == "poly":
            return warmup * (1 - done) ** power
        if name == "step":
            return warmup * gamma ** sum(done >= milestone for milestone in milestones)
        return warmup

    return factor
