"""Networks that are built in a moment: weights at random, no time spent on torchvision's classifier of 100 M numbers.

Encoders are shared between tests, so a test that alters one takes a copy. The fixtures are in conftest.py.
"""

from functools import lru_cache, wraps
from typing import Any

import torch
from torch import nn

from segrefine.models.build import create_model
from segrefine.models.encoders import create_encoder
from segrefine.models.network import SegmentationModel


def fill(module: nn.Module) -> nn.Module:
    """A module built on the meta device, given memory on the CPU, random weights and batch norm that alters little."""
    module = module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=(1.5 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0, generator=generator).sub_(0.5 if name.endswith(("mean", "bias")) else 0.0)
        else:
            tensor.zero_()
    return module


@lru_cache(maxsize=12)
def random_encoder(
    name: str, needs: tuple[str, ...], classifier_channels: int, timm_name: str | None = None, in_channels: int = 3
) -> nn.Module:
    """`create_encoder` with weights from `fill`, one for all that ask for the same; only its first layer is trained."""
    with torch.device("meta"):
        own = {"classifier_channels": classifier_channels, "timm_name": timm_name}
        encoder = create_encoder(name, needs=needs, in_channels=in_channels, **own)
    encoder = fill(encoder).requires_grad_(False)
    next(encoder.parameters()).requires_grad_(True)
    return encoder


@wraps(create_encoder)
def shared_encoder(
    name: str,
    needs: tuple[str, ...] = (),
    classifier_channels: int = 4096,
    timm_name: str | None = None,
    in_channels: int = 3,
    **others: Any,
) -> nn.Module:
    """Stands in for `create_encoder` and refuses what that refuses."""
    assert not any(others.values())  # other options are left at their defaults
    return random_encoder(name, tuple(needs), classifier_channels, timm_name, in_channels)


NARROW_SMP: dict[str, dict[str, Any]] = {
    "smp_fpn": {"pyramid_channels": 12, "segmentation_channels": 64},
    "smp_unet": {"decoder_channels": [12, 12, 12, 8, 8]},
    "smp_unetplusplus": {"decoder_channels": [12, 12, 12, 8, 8]},
    "smp_deeplabv3plus": {"out_channels": 12, "atrous_rates": [1, 2, 3], "aspp_separable": True, "aspp_dropout": 0.1},
    "smp_pspnet": {"out_channels": 12},
    "smp_upernet": {"decoder_channels": 12},
    "smp_segformer": {"segmentation_channels": 12},
}
"""Arguments of SMP's decoders for few channels."""


def build_cheap(name: str, backbone: str, num_classes: int = 3, **options: Any) -> SegmentationModel:
    """`create_model` with narrow layers and no layer that starts at zero."""
    narrow = {"widths": {4: 12, 8: 12, 16: 12, 32: 16}} if name.startswith("refinenet") else {}
    narrow |= {"arguments": NARROW_SMP[name]} if name in NARROW_SMP else {}
    narrow |= {"fc_channels": 12} if name.startswith("deconvnet") else {}
    narrow |= {"classifier_channels": 8} if backbone.startswith("vgg") else {}
    narrow |= {"timm_name": "test_convnext"} if backbone == "timm" else {}
    net = create_model(name, backbone, num_classes, **narrow | options)
    for layer in getattr(net.decoder, "score", nn.ModuleDict()).values():
        nn.init.normal_(layer.weight)
    return net.eval()
