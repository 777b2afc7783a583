"""The module's own arithmetic, beside what whole runs show."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import make_recipe
from given import loss_of

from segrefine.core.errors import UserError
from segrefine.engine.module import SegmentationModule, halve


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


@pytest.mark.parametrize("size", [(20, 30), (5, 70), (40, 31), (1, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_small_images_count_their_own_pixels_alone(
    size: tuple[int, int], reduction: Any, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network sees the last row and column repeated; loss and scores are those of the real pixels."""
    net = cheap_model("fcn32s", "resnet18").eval()
    module = SegmentationModule(net, make_recipe(loss=reduction, progressive_resizing=0.0)).eval()
    logged: list[torch.Tensor] = []
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.append(value))
    monkeypatch.setattr(module, "_rates", lambda: {"decoder/weights": 0.0})
    monkeypatch.setattr(module, "_may_look", lambda *_: False)
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    labels = torch.randint(3, (2, *size), dtype=torch.uint8)
    batch = {"image": images, "label": labels, "id": ["a", "b"], "index": torch.arange(2)}
    added = [(0, 0), (0, 0), *((0, max(0, 32 - side)) for side in size)]
    longer = net.preprocess(torch.from_numpy(np.pad(images.numpy(), added, mode="edge")) / 255)
    with torch.no_grad():
        logits = net(longer)[..., : size[0], : size[1]]
        loss = loss_of(logits, labels, reduction=reduction)
        for found in (module.validation_step(batch, 0), module.test_step(batch, 0)):
            assert torch.equal(found, logits.argmax(1).to(torch.uint8))
        torch.testing.assert_close(module.training_step(batch, 0), loss)
    torch.testing.assert_close(logged[0], loss / 2 if reduction == "sum" else loss)
    for metrics in (module.val_metrics, module.test_metrics):
        assert metrics.confusion.sum() == labels.numel()
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        assert metrics.compute()["pixel_acc"].item() == pytest.approx(accuracy)


def test_halved_images_are_averages_and_halved_labels_one_of_their_pixels() -> None:
    images = torch.randint(256, (2, 3, 8, 12), dtype=torch.uint8)
    labels = torch.randint(5, (2, 8, 12), dtype=torch.uint8)
    labels[0, 1, 1] = 255
    found = halve({"image": images, "label": labels, "id": ["a", "b"]})
    # Away from the edges a pixel is the mean of 4 x 4, weighted by 1, 3, 3, 1 (a tent of twice the width of a pixel).
    tent = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    window = images[0, 2, 1:5, 3:7].float()
    assert found["image"][0, 2, 1, 2].item() == pytest.approx((tent @ window @ tent).item())
    assert found["image"].shape == (2, 3, 4, 6)
    assert torch.equal(found["label"], labels[:, 1::2, 1::2])
    assert found["label"].dtype == torch.uint8
    odd = halve({"image": images[..., :7, :11], "label": labels[..., :7, :11], "id": []})
    assert odd["image"].shape[2:] == odd["label"].shape[1:] == (4, 6)


def test_the_loss_at_the_scores_is_refused_where_a_crf_comes_after_them(cheap_model: Any) -> None:
    net, recipe = cheap_model("fcn32s", "resnet18", crf=True), make_recipe(loss_at="scores")
    with pytest.raises(UserError, match=r"recipe\.loss_at=scores takes the loss before the CRF of model\.crf=true"):
        recipe.check_loss(net)
    make_recipe().check_loss(net)
    recipe.check_loss(cheap_model("fcn32s", "resnet18"))


@pytest.mark.parametrize("name", ["fcn8s", "refinenet"])
def test_the_loss_at_the_scores_trains_all_that_is_not_frozen(
    name: str, cheap_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes refuse a step that leaves a parameter without a gradient."""
    net = cheap_model(name, "resnet18")
    module = SegmentationModule(net, make_recipe(loss_at="scores", progressive_resizing=0.0))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(module, "_rates", lambda: {"decoder/weights": 0.0})
    monkeypatch.setattr(module, "_may_look", lambda *_: False)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    labels = torch.randint(3, (2, 64, 64), dtype=torch.uint8)
    batch = {"image": images, "label": labels, "id": ["a", "b"]}
    module.eval()  # without dropout
    loss = module.training_step(batch, 0)
    stride = {"fcn8s": 8, "refinenet": 4}[name]
    scores = net(net.preprocess(images / 255), upsampled=False)
    torch.testing.assert_close(loss, loss_of(scores, labels[:, ::stride, ::stride]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    logged: list[torch.Tensor] = []
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.append(value))
    module.validation_step(batch, 0)
    torch.testing.assert_close(logged[0], loss.detach())
