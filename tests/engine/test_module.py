"""The module's own arithmetic, beside what whole runs show."""

from typing import Any

import pytest
import torch
from builders import make_recipe
from given import loss_of

from segrefine.core.errors import UserError
from segrefine.engine.module import SegmentationModule


@pytest.mark.parametrize("count", [1, 3])
def test_a_summed_loss_of_val_is_that_of_an_image(
    count: int, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the batches: else val/loss would grow with it."""
    net = cheap_model("fcn32s", "resnet18")
    module = SegmentationModule(net, make_recipe(loss="sum")).eval()
    logged: list[torch.Tensor] = []
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.append(value))
    images = torch.randint(256, (count, 3, 40, 50), dtype=torch.uint8)
    labels = torch.randint(3, (count, 40, 50), dtype=torch.uint8)
    module.validation_step({"image": images, "label": labels, "id": ["x"] * count}, 0)
    with torch.no_grad():
        expected = loss_of(net(net.preprocess(images / 255)), labels, reduction="sum") / count
    torch.testing.assert_close(logged[0], expected)


def test_a_module_without_a_recipe_scores_and_refuses_to_train(cheap_model: Any) -> None:
    module = SegmentationModule(cheap_model("fcn32s", "resnet18")).train()
    assert not any(layer.training for layer in module.net.encoder.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    with pytest.raises(UserError, match=r"made to score a network\. Give it a recipe"):
        module.configure_optimizers()
