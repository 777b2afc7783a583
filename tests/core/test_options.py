"""Options are checked by the types and ranges of their dataclasses: one message, which names the option."""

from typing import Any

import pytest

from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.engine.recipe import Recipe
from segrefine.engine.trainer import check_trainer
from segrefine.models.build import create_model


def recipe(**options: Any) -> Recipe:
    config = read_group("recipe", "default")
    schedule = config["schedule"] | options.pop("schedule", {})
    return Recipe.from_config(config | {"schedule": schedule} | options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1}, "recipe.lr=-1 should be above 0"),
        ({"lr": float("nan")}, "recipe.lr=nan should be"),
        ({"lr": float("inf")}, "recipe.lr=inf should be below inf"),
        ({"lr": "fast"}, "recipe.lr=fast should be a number"),
        ({"lr": True}, "recipe.lr=True should be a number"),
        ({"weight_decay": -1}, "recipe.weight_decay=-1 should be at least 0"),
        ({"momentum": 2}, "recipe.momentum=2 should be below 1"),
        ({"encoder_lr_multiplier": -2}, "recipe.encoder_lr_multiplier=-2 should be at least 0 or auto"),
        ({"encoder_lr_multiplier": "slow"}, "recipe.encoder_lr_multiplier=slow should be a number or auto"),
        ({"class_weights": ["a", "b"]}, "should be median_frequency or a number or null"),
        ({"class_weights": 3}, "recipe.class_weights=3 should be median_frequency or a list or null"),
        ({"optimizer": "adam"}, "recipe.optimizer=adam should be sgd or adamw. Did you mean 'adamw'?"),
        ({"loss": "summ"}, "recipe.loss=summ should be mean, sum, ohem, dice, focal or lovasz. Did you mean 'sum'?"),
        (
            {"loss": {"mean": 1.0, "dise": 0.5}},
            "'dise': 0.5}: dise should be mean, sum, ohem, dice, focal or lovasz. Did",
        ),
        ({"loss": {"mean": 1.0, "dice": -1}}, "recipe.loss.dice=-1 should be above 0."),
        ({"loss": {"mean": "much"}}, "recipe.loss.mean=much should be a number."),
        ({"loss": 3}, "recipe.loss=3 should be mean, sum, ohem, dice, focal or lovasz or a mapping such as {a: 1}."),
        ({"loss": {}}, "recipe.loss={} names no loss: give one, such as mean, or {mean: 1.0, dice: 0.5}."),
        ({"clip_norm": 0}, "recipe.clip_norm=0 should be above 0 or null"),
        ({"frozen_norm": "yes"}, "recipe.frozen_norm=yes should be true or false"),
        ({"learning_rate": 1}, "recipe has no option 'learning_rate'"),
        ({"schedule": {"name": "polly"}}, "recipe.schedule.name=polly should be poly, step or constant. Did you mean"),
        ({"schedule": {"power": -1}}, "recipe.schedule.power=-1 should be at least 0"),
        ({"schedule": {"warmup_steps": -1}}, "recipe.schedule.warmup_steps=-1 should be at least 0"),
        ({"schedule": {"warmup_steps": 1.5}}, "recipe.schedule.warmup_steps=1.5 should be a whole number"),
        ({"schedule": {"name": "step", "milestones": [0.5, 1.0]}}, "milestones=[0.5, 1.0] should be below 1"),
        ({"schedule": {"name": "step", "milestones": [0]}}, "milestones=[0] should be above 0"),
    ],
)
def test_a_recipe_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(**options)
    assert words in str(caught.value)


def test_values_stay_as_they_were_given() -> None:
    made = recipe(lr=1, class_weights=[1, 0.5], clip_norm=None, schedule={"name": "step", "milestones": [0.5]})
    assert (made.lr, made.class_weights, made.clip_norm) == (1, [1, 0.5], None)
    assert recipe(loss={"mean": 1, "dice": 0.5}).loss == {"mean": 1, "dice": 0.5}
    assert (made.schedule.name, made.schedule.milestones) == ("step", [0.5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_epochs": "ten"}, "trainer.max_epochs=ten should be a whole number or -1"),
        ({"max_epochs": 0}, "trainer.max_epochs=0 should be at least 1 or -1"),
        ({"max_epochs": -1, "max_steps": -1}, "The training has no end"),
        ({"limit_val_batches": 0}, "trainer.limit_val_batches=0 should be"),
        ({"limit_test_batches": -0.5}, "trainer.limit_test_batches=-0.5 should be"),
        ({"limit_train_batches": 1.5}, "trainer.limit_train_batches=1.5 should be"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches=0 should be at least 1"),
        ({"gradient_clip_val": 0.5}, "trainer.gradient_clip_val has no effect here. Use recipe.clip_norm."),
        ({"max_step": 5}, "trainer has no option 'max_step'. Did you mean 'max_steps'"),
    ],
)
def test_a_trainer_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_trainer(read_group("trainer", "default") | options)
    assert words in str(caught.value)


def test_other_options_of_lightning_are_taken() -> None:
    check_trainer(
        read_group("trainer", "default") | {"profiler": "simple", "val_check_interval": 0.5, "max_time": None}
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("refinenet", {"crp_links": -1}, "model.crp_links=-1 should be at least 0"),
        ("refinenet", {"crp_links": 2.5}, "model.crp_links=2.5 should be a whole number"),
        ("refinenet", {"classifier_dropout": 1.0}, "model.classifier_dropout=1.0 should be below 1"),
        ("refinenet", {"widths": {4: "wide"}}, "model.widths.4=wide should be a whole number"),
        ("refinenet", {"widths": {"four": 8}}, "model.widths={'four': 8}: four should be a whole number"),
        ("refinenet", {"rcu_shortcut": 1}, "model.rcu_shortcut=1 should be true or false"),
        ("fcn8s", {"upsample": "bilinear"}, "model.upsample=bilinear should be learned, fixed or interpolate"),
        ("fcn8s", {"geometry": "cafe"}, "model.geometry=cafe should be same or caffe. Did you mean 'caffe'?"),
        ("fcn_dilated", {"upsample": "fixed"}, "model.upsample=fixed should be resize or interpolate"),
        ("fcn8s", {"frozen_stages": 6}, "backbone.frozen_stages=6 should be at most 5"),
        ("fcn8s", {"frozen_stages": -1}, "backbone.frozen_stages=-1 should be at least 0"),
        ("fcn8s", {"weights": 5}, "backbone.weights=5 should be a word or null"),
    ],
)
def test_a_network_that_cannot_be(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        create_model(name, "resnet50", 3, **options)
    assert words in str(caught.value)
