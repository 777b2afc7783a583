"""Encoders: images to feature maps keyed by stride.

Every encoder is an `Encoder`, a `torch.nn.Module` with

- `forward(images)`: (B, 3, H, W) float, normalized RGB -> `{stride: (B, C, h, w)}`, the strides 4, 8, 16 and 32 unless
  it stays at stride 8; the map at a stride is the deepest one at that stride;
- `channels`: `{stride: C}`, by the same keys;
- `centers`: `{stride: pixel}`, where in the input the center of cell 0 lies, on both axes: cell j of the map at
  stride s looks at pixel `s * j + center`. Upsampling uses it, so that scores land on the pixels they were computed
  from;
- `stages`: its layers in five lists, fine to coarse, for freezing the first of them;
- `depths`: `{stride: convolutions before the pool that leads there}`, where the indices of the pools were asked for,
  else empty. `forward` then gives the map at stride 2 too, and under `("pool", stride)` what undoes a pool: the indices
  (B, C, h, w) int64 of its values, as `nn.MaxPool2d` returns them, and the (height, width) of the map before it;
- `scale`: the factor by which the encoder resizes its input first, for that of several scales the largest. Cells,
  strides and centers are those of the resized input.

Encoders know nothing of decoders.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.options import Whole
from segrefine.models.encoders.base import Encoder
from segrefine.models.encoders.resnet import RESNETS, ResNetEncoder
from segrefine.models.encoders.vgg import VGGS, VGGEncoder
from segrefine.models.encoders.weights import load_encoder_weights

BACKBONES = (*VGGS, *RESNETS)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Options of `conf/backbone/*.yaml`, see `create_encoder`."""

    name: str
    weights: str | None = None
    classifier_channels: Whole = 4096
    frozen_stages: Annotated[int, Interval(ge=0, le=5)] = 0


def create_encoder(
    name: str,
    weights: str | None = None,
    needs: Collection[str] = (),
    classifier_channels: int = 4096,
    frozen_stages: int = 0,
) -> Encoder:
    """Create an encoder with what a decoder `needs` of it.

    Args:
        name: one of `BACKBONES`.
        weights: None for random, "imagenet" for torchvision's, or the path of a .pth or .safetensors file.
        needs: "classifier" asks a VGG for fc6 and fc7 (a ResNet has none to give); "caffe" asks a VGG for the geometry
            of FCN's release; "large_fov" asks a VGG for the form that DeepLab-LargeFOV has; "indices" asks a VGG for
            the indices of its pools; "dilation" asks a ResNet to stay at stride 8.
        classifier_channels: width of VGG's fc6 and fc7, 4096 as published; 0 omits them.
        frozen_stages: how many of the five stages, from the input on, keep their weights; nothing is computed backwards
            through them.
    """
    if name in VGGS:
        if "dilation" in needs:
            raise UserError(f"backbone={name}: VGG cannot be dilated here. Use a ResNet of 50 layers or more.")
        width = classifier_channels if "classifier" in needs else 0
        encoder: Encoder = VGGEncoder(name, width, "caffe" in needs, "large_fov" in needs, "indices" in needs)
    elif name in RESNETS:
        if "caffe" in needs:
            raise UserError(f"backbone={name}: model.geometry=caffe is VGG's. Use vgg16 or model.geometry=same.")
        if "large_fov" in needs:
            raise UserError(f"backbone={name}: DeepLab-LargeFOV is made for VGG. Use vgg16, or model=fcn_dilated.")
        if "indices" in needs:
            raise UserError(f"backbone={name}: unpooling takes the indices of five pools, as a VGG has. Use vgg16_bn.")
        encoder = ResNetEncoder(name, dilated="dilation" in needs)
    else:
        raise UserError(f"Unknown backbone {name!r}.{did_you_mean(name, BACKBONES)}")
    if weights is not None:
        load_encoder_weights(encoder, name, weights)
    for layer in (layer for stage in encoder.stages[:frozen_stages] for layer in stage):
        layer.requires_grad_(False)
    return encoder
