"""Auxiliary heads: torchvision's own network and loss, RefineNet's blocks by hand, nothing of them beside training."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import Build
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.models.build import create_model
from segrefine.models.cost import count_parameters, measure_cost
from segrefine.models.decoders.base import AuxiliaryHead
from segrefine.models.encoders import create_encoder
from segrefine.models.init import Init
from segrefine.models.logits import Logits
from segrefine.weights.checkpoint import fill, load_weights
from segrefine.weights.export import FORMATS
from segrefine.weights.published import AUXILIARY, FORMS, to_published

pytestmark = pytest.mark.usefixtures("narrow")

DECODERS = [("fcn_dilated", "resnet50"), ("deeplabv3", "resnet50"), ("refinenet", "vgg11")]
SIZE = (45, 70)


def in_training(net: nn.Module) -> Any:
    """A copy, since encoders are shared and training alters batch norm's statistics."""
    return copy.deepcopy(net).train()


def labeled(classes: int = 3, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, classes, (count, *SIZE), generator=generator)
    labels[:, :7, 5:30] = VOID
    return torch.randn(count, 3, *SIZE, generator=generator), labels


def narrow_torchvision(head: str, auxiliary: bool) -> nn.Module:
    """torchvision's own network over the narrow ResNet-50, put together by its own classes."""
    segmentation = torchvision.models.segmentation
    backbone = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    widths = [stage[-1].conv3.out_channels for stage in (backbone.layer3, backbone.layer4)]
    returned = {"layer4": "out"} | ({"layer3": "aux"} if auxiliary else {})
    features = torchvision.models._utils.IntermediateLayerGetter(backbone, returned)
    last = segmentation.fcn.FCNHead if head == "fcn" else segmentation.deeplabv3.DeepLabHead
    kind = segmentation.FCN if head == "fcn" else segmentation.DeepLabV3
    return kind(features, last(widths[1], 3), segmentation.fcn.FCNHead(widths[0], 3) if auxiliary else None)


def criterion(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """As references/segmentation/train.py of torchvision has it."""
    losses = {name: F.cross_entropy(logits, labels, ignore_index=255) for name, logits in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"]


@pytest.mark.parametrize(("head", "model"), [("fcn", "fcn_dilated"), ("deeplabv3", "deeplabv3")])
def test_torchvisions_auxiliary_classifier_and_loss(head: str, model: str) -> None:
    """In training mode, with its dropout: the same draws, loss, gradients and statistics."""
    theirs, (images, labels) = narrow_torchvision(head, True).train(), labeled()
    ours = create_model(model, "resnet50", 3, auxiliary=0.5).train()
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    fill(ours, tensors, Path("theirs.pth"))
    for name, tensor in ours.decoder.auxiliary[0].score.state_dict().items():
        assert torch.equal(tensor, tensors[f"aux_classifier.{name}"])
    torch.manual_seed(5)
    expected = criterion(theirs(images), labels)
    torch.manual_seed(5)
    found = Logits(ours, images).loss(labels)
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    for one, other in (
        (ours.encoder.layer3[0].conv1, theirs.backbone.layer3[0].conv1),
        (ours.encoder.conv1, theirs.backbone.conv1),
        (ours.decoder.auxiliary[0].score[0], theirs.aux_classifier[0]),
        (ours.decoder.head[-1], theirs.classifier[-1]),
    ):
        torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-6)
    statistics = ours.decoder.auxiliary[0].score[1].running_mean
    torch.testing.assert_close(statistics, theirs.aux_classifier[1].running_mean)
    first, second = ours.eval()(images, auxiliary=True)
    assert second.shape == (2, 3, 6, 9)
    theirs.eval()
    torch.testing.assert_close(first, theirs(images)["out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.upsample(second, SIZE), theirs(images)["aux"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file_has_it", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_torchvisions_files_with_and_without_auxiliary_classifier(
    file_has_it: bool, asked: bool, tmp_path: Path
) -> None:
    """It is taken if both have one; a file for torchvision never has one."""
    tensors = narrow_torchvision("fcn", file_has_it).state_dict()
    torch.save(tensors, tmp_path / "theirs.pth")
    net = create_model("fcn_dilated", "resnet50", 3, auxiliary=0.5 if asked else None)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_weights(net, tmp_path / "theirs.pth")
    after = net.state_dict()
    assert torch.equal(after["encoder.layer4.2.conv3.weight"], tensors["backbone.layer4.2.conv3.weight"])
    if asked:
        name = f"{AUXILIARY}0.score.4.weight"
        assert torch.equal(after[name], tensors["aux_classifier.4.weight"] if file_has_it else before[name])
    else:
        assert not any(name.startswith(AUXILIARY) for name in after)
    (form,) = [form for form in FORMS if form.name == "torchvision"]
    written = to_published(form, net)
    assert written.keys() == {name for name in tensors if not name.startswith("aux")}
    assert form.name in FORMATS


def bilinear(cells: int, side: int, stride: int, center: float) -> Tensor:
    """(side, cells): what each pixel takes from each cell, cell j at pixel stride * j + center, held at both ends."""
    place = ((torch.arange(side) - center) / stride).clamp(0, cells - 1)
    return (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)


@pytest.mark.parametrize(
    ("name", "backbone", "grids"),
    [
        ("refinenet", "resnet18", [32, 16, 8]),
        ("refinenet_2cascade", "vgg11", [16]),
        ("refinenet_bn", "vgg11", [32, 16, 8]),
        ("refinenet_lw", "resnet18", [32, 16, 8]),
    ],
)
@pytest.mark.parametrize("loss_at", ["pixels", "scores"])
def test_refinenets_blocks_have_a_loss_each(
    name: str, backbone: str, grids: list[int], loss_at: Any, cheap_model: Build
) -> None:
    """A 3x3 convolution on the output of every block but the last, and its cross-entropy, written out."""
    net = in_training(cheap_model(name, backbone, auxiliary=0.3, classifier_dropout=0.0))
    (images, labels), outputs = labeled(), []
    for block in net.decoder.blocks:
        block.register_forward_hook(lambda block, inputs, output: outputs.append(output))
    found = Logits(net, images, loss_at).loss(labels)
    heads, weight = net.decoder.auxiliary, net.decoder.auxiliary_weight
    assert (len(heads), len(outputs), weight) == (len(grids), len(grids) + 1, 0.3)
    total = torch.zeros(())
    for head, output, stride in zip(heads, outputs, grids, strict=False):
        scores = F.conv2d(output, head.score.weight, head.score.bias, padding=1)
        height, width = scores.shape[-2:]
        assert (height, width) == tuple(net.encoder(images)[stride].shape[-2:])
        center, wanted = net.encoder.centers[stride], labels
        if loss_at == "pixels":
            rows, columns = bilinear(height, SIZE[0], stride, center), bilinear(width, SIZE[1], stride, center)
            scores = rows @ scores @ columns.T
        else:
            places = [(stride * torch.arange(side) + center + 0.5).floor().long() for side in (height, width)]
            seen = F.pad(labels, (0, 64, 0, 64), value=VOID)
            wanted = seen[:, places[0]][:, :, places[1]]
        total = total + F.cross_entropy(scores, wanted, ignore_index=VOID)
    net.drop_auxiliary()
    torch.testing.assert_close(found, Logits(net, images, loss_at).loss(labels) + 0.3 * total)


def test_two_scales_have_heads_on_the_grid_of_the_larger(cheap_model: Build) -> None:
    net = in_training(cheap_model("refinenet_2scale", "resnet18", auxiliary=0.5))
    images, labels = labeled()
    _, *scores = net(images, auxiliary=True)
    maps = [net.encoder(images)[stride, 1.2] for stride in (32, 16, 8)]
    assert [found.shape[-2:] for found in scores] == [each.shape[-2:] for each in maps]
    Logits(net, images).loss(labels).backward()
    assert all(head.score.weight.grad.abs().sum() > 0 for head in net.decoder.auxiliary)


@pytest.mark.parametrize("loss", ["mean", "sum", {"mean": 1.0, "dice": 0.5}])
def test_bands_and_other_losses_hold_for_the_heads(
    loss: Any, cheap_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = in_training(cheap_model("refinenet_lw", "resnet18", auxiliary=0.5, classifier_dropout=0.0))
    (images, labels), found = labeled(), []
    for band in (2**22, 2 * 3 * SIZE[1] * 4):
        monkeypatch.setattr("segrefine.models.logits.BAND", band)
        net.zero_grad()
        logits = Logits(net, images)
        assert logits.banded == (band < 2**22)
        value = logits.loss(labels, torch.tensor([1.0, 0.5, 2.0]), loss)
        value.backward()
        found.append((value.detach(), net.decoder.auxiliary[1].score.weight.grad.clone()))
    for whole, banded in zip(*found, strict=True):
        torch.testing.assert_close(banded, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "backbone"), DECODERS)
def test_a_batch_of_void_has_no_loss_and_no_gradient(name: str, backbone: str, cheap_model: Build) -> None:
    net = in_training(cheap_model(name, backbone, auxiliary=0.5))
    images, labels = labeled()
    loss = Logits(net, images).loss(torch.full_like(labels, VOID))
    assert loss.item() == 0
    loss.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in net.decoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "backbone"), DECODERS)
@pytest.mark.parametrize("init", ["default", "zero_mean"])
def test_nothing_but_training_knows_of_the_heads(name: str, backbone: str, init: Init, cheap_model: Build) -> None:
    """The rest starts as without them, and gives the same logits, loss of a validation, and cost."""
    nets = []
    for auxiliary in (None, 0.5):
        torch.manual_seed(3)
        nets.append(cheap_model(name, backbone, auxiliary=auxiliary, init=init))
    without, with_heads = nets
    added = with_heads.state_dict().keys() - without.state_dict().keys()
    assert added
    assert all(key.startswith(AUXILIARY) for key in added)
    for key, tensor in without.state_dict().items():
        assert torch.equal(tensor, with_heads.state_dict()[key]), key
    images, labels = labeled()
    assert measure_cost(with_heads, SIZE) == measure_cost(without, SIZE)
    assert count_parameters(with_heads.decoder) == sum(each.numel() for each in without.decoder.parameters())
    with torch.no_grad():
        assert torch.equal(with_heads(images), without(images))
        assert torch.equal(Logits(with_heads, images).loss(labels), Logits(without, images).loss(labels))
    with_heads.drop_auxiliary()
    assert with_heads.state_dict().keys() == without.state_dict().keys()
    assert not any(isinstance(part, AuxiliaryHead) for part in with_heads.modules())


def test_own_weights_are_taken_with_and_without_heads(cheap_model: Build, tmp_path: Path) -> None:
    with_heads, without = (cheap_model("refinenet_lw", "resnet18", auxiliary=each) for each in (0.5, None))
    torch.save(with_heads.state_dict(), tmp_path / "with.pth")
    torch.save(without.state_dict(), tmp_path / "without.pth")
    load_weights(without, tmp_path / "with.pth")
    head = with_heads.decoder.auxiliary[0].score.weight
    before = head.clone()
    load_weights(with_heads, tmp_path / "without.pth")
    assert torch.equal(head, before)
    with torch.no_grad():
        head.zero_()
    load_weights(with_heads, tmp_path / "with.pth")
    assert torch.equal(head, before)


def test_what_the_encoder_gives_the_head_is_layer3() -> None:
    encoder = create_encoder("resnet50", needs=("dilation", "auxiliary")).eval()
    seen = []
    encoder.layer3.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 33, 65))
    assert torch.equal(features["auxiliary"], seen[0])
    assert encoder.channels["auxiliary"] == seen[0].shape[1]
    assert features.keys() == encoder.channels.keys() == encoder.centers.keys()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn8s", {"auxiliary": 0.5}, "no option 'auxiliary'. It is one of model=deeplabv3, fcn_dilated, refinenet, "),
        (
            "refinenet_single",
            {"auxiliary": 0.5},
            "model.auxiliary=0.5: the only block of model.cascade has",
        ),
        ("refinenet", {"auxiliary": 0}, "model.auxiliary=0 should be above 0 or null"),
        ("refinenet", {"auxiliary": True}, "model.auxiliary=True should be a number or null"),
        ("fcn_dilated", {"auxiliary": float("inf")}, "model.auxiliary=inf should be"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        create_model(name, "resnet50", 3, **options)
    assert message in str(caught.value)
