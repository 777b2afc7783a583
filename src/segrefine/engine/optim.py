"""Optimizers over the parameter groups that the two papers tell apart, and learning-rate schedules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.core.options import NonNegative, Whole

if TYPE_CHECKING:
    from segrefine.engine.recipe import Recipe
    from segrefine.models.network import SegmentationModel


def parameter_groups(net: nn.Module, recipe: "Recipe", lr: float) -> list[dict[str, Any]]:
    """Group the parameters as encoder/weights, encoder/biases, decoder/weights and decoder/biases, without frozen ones.

    A group's rate is `lr`, times the recipe's `encoder_lr_multiplier` in the encoder, times its `bias_lr_multiplier`
    for biases; biases decay only with `bias_decay`. An empty group is dropped, so a rate is never reported for nothing.
    """
    groups = []
    for part, factor in (("encoder", recipe.encoder_lr_multiplier), ("decoder", 1.0)):
        assert not isinstance(factor, str)  # resolved
        named = getattr(net, part).named_parameters()
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        biases = [parameter for name, parameter in trained if name.endswith("bias")]
        weights = [parameter for name, parameter in trained if not name.endswith("bias")]
        for kind, parameters, multiplier, decays in (
            ("weights", weights, 1.0, True),
            ("biases", biases, recipe.bias_lr_multiplier, recipe.bias_decay),
        ):
            if parameters:
                rate, decay = lr * factor * multiplier, recipe.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": rate, "weight_decay": decay, "name": f"{part}/{kind}"})
    return groups


def create_optimizer(groups: list[dict[str, Any]], recipe: "Recipe", fused: bool = True) -> torch.optim.Optimizer:
    """SGD with the recipe's momentum, or AdamW with PyTorch's betas, over `parameter_groups`; `fused` is fastest."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, fused=fused)
    return torch.optim.AdamW(groups, fused=fused)


def filters(net: "SegmentationModel", which: Literal["decoder", "all", "hidden"]) -> list[Tensor]:
    """Return the weights of the trained convolutions, (C out, C in, k, k), without transposed ones.

    Filters of a single weight, which would never change, are left out, and with `hidden` those of class scores: the
    decoder's, and the last of a context module.
    """
    part = net.decoder if which == "decoder" else net
    scores = []
    if which == "hidden":
        scores = [*net.decoder.score_layers(), *list(net.decoder.context.children())[-1:]]
    layers = [module for module in part.modules() if isinstance(module, nn.Conv2d) and module not in scores]
    return [layer.weight for layer in layers if layer.weight.requires_grad and layer.weight[0].numel() > 1]


def center_updates(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> None:
    """Let no step change the mean of a filter: what it would change is taken back from all its weights alike.

    Over maps that a ReLU made positive, a shift of a filter's mean shifts its whole response, so that a few steps can
    leave a channel negative everywhere. This is gradient centralization (Yong et al., ECCV 2020), applied to the update
    as the authors do for adaptive optimizers, and with weight decay, which is part of the update.
    """
    means: list[Tensor] = []

    def before(*_: Any) -> None:
        means[:] = [weight.mean((1, 2, 3), keepdim=True) for weight in weights]

    @torch.no_grad()
    def after(*_: Any) -> None:
        for weight, mean in zip(weights, means, strict=True):
            weight.sub_(weight.mean((1, 2, 3), keepdim=True) - mean)

    optimizer.register_step_pre_hook(torch.no_grad()(before))
    optimizer.register_step_post_hook(after)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A rule for the learning rate, as a factor of the base rate by optimizer step.

    - `poly`: (1 - step / total_steps) ** power; power 0.9 is DeepLab's (Chen et al., PAMI 2018, section 4.1).
    - `step`: `gamma` per milestone passed. Milestones are fractions of the training, e.g. (1/3, 2/3), so that a recipe
      holds for any length; a step that falls on a milestone has passed it. 0.1 is RefineNet's (5e-4, then 5e-5).
    - `constant`: 1, FCN's.

    Over the first `warmup_steps` the factor is also multiplied by 1/warmup_steps, 2/warmup_steps, .. 1.

    Raises:
        UserError: `step` without milestones.
    """

    name: Literal["poly", "step", "constant"]
    power: NonNegative = 0.9
    milestones: Sequence[Annotated[float, Interval(gt=0, lt=1)]] = ()
    gamma: NonNegative = 0.1
    warmup_steps: Whole = 0

    def __post_init__(self) -> None:
        if self.name == "step" and not self.milestones:
            raise UserError(
                "recipe.schedule.name=step needs recipe.schedule.milestones, fractions of the training such as [0.5]."
            )

    def factor(self, total_steps: int) -> Callable[[int], float]:
        """Return the function step -> factor that `LambdaLR` takes, for so many optimizer steps; UserError for none."""
        if total_steps < 1:
            raise UserError(f"A schedule needs at least 1 training step, got {total_steps}.")

        def factor(step: int) -> float:
            done = min(step / total_steps, 1.0)  # LambdaLR asks once more after the last step
            warmup = min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
            if self.name == "poly":
                return warmup * (1 - done) ** self.power
            if self.name == "step":
                return warmup * self.gamma ** sum(done >= milestone for milestone in self.milestones)
            return warmup

        return factor
