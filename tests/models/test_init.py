"""How decoders start, against what each start means."""

import pytest
import torch
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel


def started(name: str, init: str, seed: int = 3, **options: object) -> SegmentationModel:
    torch.manual_seed(seed)
    if name.startswith("refinenet"):
        options["widths"] = dict.fromkeys((4, 8, 16, 32), 24)
    backbone = "resnet50" if name == "fcn_dilated" else "resnet18"
    return create_model(name, backbone=backbone, num_classes=5, init=init, **options)


def convolutions(net: SegmentationModel) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in net.decoder.named_modules() if isinstance(module, nn.Conv2d)}


def test_the_release_draws_all_weights_alike() -> None:
    layers = convolutions(started("refinenet", "release"))
    weights = torch.cat([layer.weight.flatten() for layer in layers.values()])
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)
    assert abs(weights.mean().item()) < 1e-4
    assert all(layer.bias is None or not layer.bias.any() for layer in layers.values())


def test_filters_of_zero_mean_do_not_answer_to_a_uniform_map() -> None:
    for name in ("refinenet", "refinenet_lw", "fcn_dilated"):
        net, plain = started(name, "zero_mean"), started(name, "default")
        for layer, before in zip(convolutions(net).values(), convolutions(plain).values(), strict=True):
            inside = torch.ones(1, layer.in_channels, 9, 9)
            answer = nn.functional.conv2d(inside, layer.weight)
            assert answer.abs().max() < 1e-5
            change = before.weight - layer.weight  # the same for all weights of a filter
            assert torch.allclose(change, change[:, :1, :1, :1].expand_as(change), atol=1e-7)


def test_residual_branches_that_start_at_zero_leave_the_sum_of_the_adapted_maps() -> None:
    net = started("refinenet", "zero_residual").eval()
    features: dict[int, Tensor] = net.encoder(torch.randn(1, 3, 64, 96))
    x: Tensor | None = None
    for block, stride in zip(net.decoder.blocks, (32, 16, 8, 4), strict=True):
        path = block.adapt[0][0](features[stride])
        x = path if x is None else block.fuse([path, x])
        x = x.relu()
    assert x is not None
    torch.testing.assert_close(net.decoder(features), net.decoder.classifier(x))


@pytest.mark.parametrize("init", ["release", "zero_mean", "zero_residual"])
def test_upsampling_that_starts_bilinear_stays_bilinear(init: str) -> None:
    plain, net = started("fcn8s", "default"), started("fcn8s", init)
    for name, tensor in plain.decoder.upsample.state_dict().items():
        assert torch.equal(tensor, net.decoder.upsample.state_dict()[name])


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.init=zero_means.*default, release, zero_mean"):
        started("fcn8s", "zero_means")
