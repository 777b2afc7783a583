"""Decoders of segmentation_models_pytorch (SMP) over our encoders against SMP's own networks, with the same weights."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor, nn

from segrefine.core.errors import UserError
from segrefine.engine.callbacks.dead_units import find_alive
from segrefine.models.build import create_model
from segrefine.models.cost import count_multiply_adds, count_parameters
from segrefine.models.network import SegmentationModel
from segrefine.models.upsampling import Corners
from segrefine.weights.export import FORMATS, FromImages

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., SegmentationModel]
WHOLE: dict[str, Any] = {"encoder_weights": None, "classes": 5}


def segformer() -> nn.Module:
    """SMP's, over an encoder without a map at stride 2, as its own MiT encoders are: their widths differ."""
    net = smp.Segformer("resnet18", **WHOLE)
    net.decoder = SegformerDecoder([3, 0, 64, 128, 256, 512])
    net.segmentation_head = SegmentationHead(256, 5, kernel_size=1, upsampling=4)
    net.initialize()
    return net


THEIRS: dict[str, Callable[[], nn.Module]] = {
    "fpn": lambda: smp.FPN("resnet18", **WHOLE),
    "unet": lambda: smp.Unet("resnet18", **WHOLE),
    "unetplusplus": lambda: smp.UnetPlusPlus("resnet18", **WHOLE),
    "deeplabv3plus": lambda: smp.DeepLabV3Plus("resnet18", **WHOLE),
    "pspnet": lambda: smp.PSPNet("resnet18", encoder_depth=5, upsampling=16, **WHOLE),
    "upernet": lambda: smp.UPerNet("resnet18", **WHOLE),
    "segformer": segformer,
}


class Maps(nn.Module):
    """Stands in for SMP's encoder: our encoder's maps in a list, from stride 1 on."""

    output_stride = 32

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.encoder(images)
        half = maps.pop(2, images[:, :0, ::2, ::2])
        return [images, half, *maps.values()]


def decoder_of(theirs: nn.Module) -> dict[str, Tensor]:
    """The weights of SMP's decoder and head under our names."""
    tensors = {f"decoder.{name}": tensor for name, tensor in theirs.decoder.state_dict().items()}
    head = theirs.segmentation_head[0].state_dict()
    return tensors | {f"classifier.{name}": tensor for name, tensor in head.items()}


def randomized(net: nn.Module) -> nn.Module:
    """Norms that alter what they are given, as after a training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return net


@pytest.mark.parametrize("name", THEIRS)
def test_logits_and_parameters_are_smps(name: str) -> None:
    theirs = randomized(THEIRS[name]()).eval()
    net = create_model(f"smp_{name}", "resnet18", 5).eval()
    net.decoder.load_state_dict(decoder_of(theirs))
    assert count_parameters(net.decoder) == count_parameters(theirs.decoder) + count_parameters(
        theirs.segmentation_head
    )
    theirs.encoder = Maps(net.encoder).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = theirs(images), net(images)
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fpn", "unetplusplus", "upernet"))]
)
def test_over_a_resnet_the_whole_network_is_smps(name: str) -> None:
    """SMP's ResNets have torchvision's names; it dilates those of the other decoders in another way."""
    theirs = randomized(THEIRS[name]()).eval()
    net = create_model(f"smp_{name}", "resnet18", 5).eval()
    net.encoder.load_state_dict(theirs.encoder.state_dict())
    net.decoder.load_state_dict(decoder_of(theirs))
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = theirs(images)
        assert (net(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", THEIRS)
def test_starts_are_drawn_as_smps(name: str) -> None:
    ours = create_model(f"smp_{name}", "resnet18", 5, init="default").decoder.state_dict()
    for key, tensor in decoder_of(THEIRS[name]()).items():
        if tensor.numel() > 2000:
            assert ours[key].std() == pytest.approx(float(tensor.std()), rel=0.05, abs=1e-9), key
            assert ours[key].abs().max() == pytest.approx(float(tensor.abs().max()), rel=0.05, abs=1e-9), key


@pytest.mark.parametrize("name", THEIRS)
def test_other_sizes_are_those_of_the_padded_image(name: str, cheap_model: Build) -> None:
    net = cheap_model(f"smp_{name}", "vgg11")
    images = torch.randn(1, 3, 37, 75)
    right = torch.cat([images, images[..., -1:].expand(-1, -1, -1, 21)], 3)
    padded = torch.cat([right, right[:, :, -1:].expand(-1, -1, 27, -1)], 2)
    with torch.no_grad():
        torch.testing.assert_close(net(images), net(padded)[..., :37, :75])


def test_a_unet_does_without_a_map_that_is_not_there() -> None:
    with torch.device("meta"):
        patches = create_model("smp_unet", "timm", 5, timm_name="test_convnext").decoder.decoder
        convolved = create_model("smp_unet", "timm", 5, timm_name="test_resnet").decoder.decoder
    assert [block.conv1[0].in_channels for block in patches.blocks][3:] == [64, 32]
    assert [block.conv1[0].in_channels for block in convolved.blocks][3:] == [64 + 32, 32]


@pytest.mark.parametrize("stride", [4, 16])
def test_corner_cells_lie_on_corner_pixels_and_the_others_evenly_between(stride: int) -> None:
    """A ramp of the positions comes back as the pixels' own."""
    layer = Corners(stride)
    rows, columns = layer.positions(3, 0), layer.positions(5, 0)
    scores = torch.stack([rows[:, None].expand(3, 5), columns.expand(3, 5)])[None]
    found = layer(scores, (3 * stride - 1, 5 * stride))[0]
    torch.testing.assert_close(found[0, :, 2], torch.arange(3.0 * stride - 1, dtype=torch.float64))
    torch.testing.assert_close(found[1, 0], torch.arange(5.0 * stride, dtype=torch.float64))


def refusal(name: str, backbone: str = "resnet18", **options: Any) -> str:
    with pytest.raises(UserError) as caught, torch.device("meta"):
        create_model(name, backbone, 5, **options)
    return str(caught.value)


def test_mistakes_are_refused_in_words() -> None:
    message = refusal("smp_fpn", arguments={"pyramid_chanels": 3, "segmentation_channels": 32})
    assert message.startswith(
        "model=smp_fpn has no option 'arguments.pyramid_chanels'. Did you mean 'pyramid_channels'"
    )
    message = refusal("smp_unet", arguments={"decoder_channels": [4, 4]})
    assert message.startswith("model=smp_unet: model.arguments={'decoder_channels': [4, 4]}: Model depth is 5, but")
    assert "model.upsample=nearest should be corners or interpolate" in refusal("smp_fpn", upsample="nearest")
    assert "pvt_v2_b0 cannot be dilated" in refusal("smp_pspnet", "timm", timm_name="pvt_v2_b0")


@pytest.mark.parametrize("name", THEIRS)
def test_a_batch_of_one_trains_or_is_refused(name: str, cheap_model: Build) -> None:
    net = cheap_model(f"smp_{name}", "resnet18").train()
    if name in ("deeplabv3plus", "upernet"):
        with pytest.raises(UserError, match=r"cannot train on a batch of one image.*datamodule.batch_size"):
            net(torch.randn(1, 3, 64, 64))
    else:
        assert net(torch.randn(1, 3, 64, 64)).isfinite().all()
    assert net(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.decoders.fpn.decoder", None)
    assert refusal("smp_fpn") == 'model=smp_fpn needs packages that are not installed: pip install -e ".[smp]".'


@pytest.mark.parametrize("name", THEIRS)
def test_relus_and_multiply_adds_are_found(name: str, cheap_model: Build) -> None:
    net = cheap_model(f"smp_{name}", "resnet18")
    alive = find_alive(net, torch.randn(1, 3, 32, 32))
    relus = [module for module in net.decoder.modules() if isinstance(module, nn.ReLU)]
    assert len([relu for relu in alive if relu.startswith("decoder.")]) == len(relus) > 0
    flops = [count_multiply_adds(net, (32, side)) for side in (64, 65, 96)]
    assert flops[0] < flops[1] == flops[2]  # what is computed, padding included


def test_pools_to_several_cells_are_not_written_as_onnx(cheap_model: Build, tmp_path: Path) -> None:
    for name in ("smp_upernet", "smp_pspnet"):
        with pytest.raises(UserError, match=r"pools to a fixed number of cells .* Use format=torch_export"):
            FORMATS["onnx"](cheap_model(name, "resnet18"), {}, tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_programs_are_written_for_any_size(name: str, cheap_model: Build, tmp_path: Path) -> None:
    net = cheap_model(f"smp_{name}", "resnet18")
    read = FORMATS["torch_export"](net, {}, tmp_path / "net.pt2")
    for size in ((64, 117), (131, 65)):
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(read(images), FromImages(net)(images))
