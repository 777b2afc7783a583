"""The recipe of a training: optimizer, schedule, loss. A file of `conf/recipe` as checked and typed options."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Interval
from torch.nn.modules.batchnorm import _BatchNorm

from segrefine.core.errors import UserError
from segrefine.core.options import Auto, NonNegative, Positive, make_options
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.optim import Schedule
from segrefine.models.logits import LossAt
from segrefine.models.losses import LossName, by_name
from segrefine.models.network import SegmentationModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of `conf/recipe/*.yaml`, where each is explained. `resolve` computes what depends on the run."""

    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    scale_lr: bool
    encoder_lr_multiplier: NonNegative | Auto
    bias_lr_multiplier: NonNegative
    weight_decay: NonNegative
    bias_decay: bool
    momentum: Annotated[float, Interval(ge=0, lt=1)]
    schedule: Schedule
    loss: LossName | Mapping[LossName, Positive]
    class_weights: Literal["median_frequency"] | Sequence[NonNegative] | None
    frozen_norm: bool
    clip_norm: Positive | None
    on_nonfinite: Literal["stop", "skip"]
    center_updates: Literal["decoder", "all", "hidden"] | None = None
    progressive_resizing: Annotated[float, Interval(ge=0, le=1)] = 0.0
    loss_at: LossAt = "pixels"
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        if not self.loss:
            raise UserError("recipe.loss={} names no loss: give one, such as mean, or {mean: 1.0, dice: 0.5}.")

    def loss_of_val(self, count: int) -> dict[LossName, float]:
        """Return `loss` for a batch of `count` images, with a sum over pixels by image, whatever their number."""
        terms: Any = by_name(self.loss)
        return {name: factor / count if name == "sum" else factor for name, factor in terms.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Recipe":
        """Check the options of a file of `conf/recipe`; UserError for one that makes no sense."""
        return make_options(cls, config, "recipe", "recipe.")

    def resolve(self, pretrained: bool, datamodule: SegmentationDataModule) -> "Recipe":
        """Work out the encoder's `auto` rate and, from the labels, the class weights; UserError if these do not fit.

        `pretrained` is whether the run starts from weights that were trained.
        """
        multiplier = self.encoder_lr_multiplier
        if multiplier == "auto":
            multiplier = 0.1 if pretrained else 4.0
        weights = self.class_weights
        if weights == "median_frequency":
            weights = datamodule.median_frequency_weights().tolist()
            pairs = zip(datamodule.classes, weights, strict=True)
            log.info("class weights: " + ", ".join(f"{name} {weight:.4g}" for name, weight in pairs))
        if weights is not None and (isinstance(weights, str) or len(weights) != datamodule.num_classes):
            raise UserError(
                f"recipe.class_weights={weights} should be null, median_frequency or a list of "
                f"{datamodule.num_classes} numbers, one a class."
            )
        return replace(self, encoder_lr_multiplier=multiplier, class_weights=weights)

    def without_data(self) -> "Recipe":
        """Resolve the recipe of trained weights for a module that sees no training data: without counted weights."""
        multiplier = 0.1 if self.encoder_lr_multiplier == "auto" else self.encoder_lr_multiplier
        weights = None if isinstance(self.class_weights, str) else self.class_weights
        return replace(self, encoder_lr_multiplier=multiplier, class_weights=weights)

    def check_norms(self, pretrained: bool, net: SegmentationModel) -> None:
        """Warn where frozen batch norm would do nothing."""
        if self.frozen_norm and not pretrained and any(isinstance(module, _BatchNorm) for module in net.modules()):
            log.warning(
                "recipe.frozen_norm=true over random weights: batch norm will do nothing. Give backbone.weights."
            )

    def check_loss(self, net: SegmentationModel) -> None:
        """Raise UserError for a loss that does not see all of the network."""
        if self.loss_at == "scores" and net.decoder.crf is not None:
            raise UserError(
                "recipe.loss_at=scores takes the loss before the CRF of model.crf=true, which would learn nothing. Use "
                "recipe.loss_at=pixels."
            )
