"""Encoders: images to feature maps keyed by stride.

Every encoder is an `Encoder`, a `torch.nn.Module` with

- `forward(images)`: (B, in_channels, H, W) float, normalized -> `{stride: (B, C, h, w)}`, the strides 4, 8, 16 and 32
  unless it stays at stride 8 or 16, or 2 was asked for; the map at a stride is the deepest one at that stride;
- `channels`: `{stride: C}`, by the same keys;
- `centers`: `{stride: pixel}`, where in the input the center of cell 0 lies, on both axes: cell j of the map at
  stride s looks at pixel `s * j + center`. Upsampling uses it, so that scores land on the pixels they were computed
  from;
- `stages`: its layers in five lists, fine to coarse, for freezing the first of them;
- `depths`: `{stride: convolutions before the pool that leads there}`, where the indices of the pools were asked for,
  else empty. `forward` then gives the map at stride 2 too, and under `("pool", stride)` what undoes a pool: the indices
  (B, C, h, w) int64 of its values, as `nn.MaxPool2d` returns them, and the (height, width) of the map before it;
- `scale`: the factor by which the encoder resizes its input first, for that of several scales the largest. Cells,
  strides and centers are those of the resized input;
- `multiple`: what both sides of that input are then lengthened to a multiple of: 32 for decoders that ask for it, and
  for timm's networks.

Encoders know nothing of decoders.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from segrefine.core.channels import spread
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.options import Whole
from segrefine.models.encoders.base import Encoder
from segrefine.models.encoders.resnet import RESNETS, ResNetEncoder
from segrefine.models.encoders.timm import TimmEncoder
from segrefine.models.encoders.vgg import VGGS, VGGEncoder
from segrefine.models.encoders.weights import load_encoder_weights

BACKBONES = (*VGGS, *RESNETS, "timm")

OVER_VGG = {
    "caffe": "model.geometry=caffe is VGG's. Use vgg16 or model.geometry=same.",
    "large_fov": "DeepLab-LargeFOV is made for VGG. Use vgg16, or model=fcn_dilated.",
    "indices": "unpooling takes the indices of five pools, as a VGG has. Use vgg16_bn.",
}
"""What only a VGG has to give, and what is said where a decoder asks another encoder for it."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Options of `conf/backbone/*.yaml`, see `create_encoder`.

    Attributes:
        classifier_channels: width of VGG's fc6 and fc7, 4096 as published; 0 omits them.
        frozen_stages: how many of the five stages, from the input on, keep their weights; nothing is computed backwards
            through them.
        timm_name: for `name="timm"` which of its networks.
    """

    name: str
    weights: str | None = None
    classifier_channels: Whole = 4096
    frozen_stages: Annotated[int, Interval(ge=0, le=5)] = 0
    timm_name: str | None = None


def create_encoder(
    name: str, weights: str | None = None, needs: Collection[str] = (), in_channels: int = 3, **options: Any
) -> Encoder:
    """Create an encoder with what a decoder `needs` of it.

    Args:
        name: one of `BACKBONES`.
        weights: None for random, "imagenet" for torchvision's, "imagenet_v2" for its later ones of deep ResNets,
            "pretrained" for timm's, or the path of a .pth or .safetensors file.
        needs: what `VGGEncoder`, `ResNetEncoder` and `TimmEncoder` list; "classifier" asks a VGG for fc6 and fc7
            (others have none to give), and "multiple_of_32" any for maps of whole strides, of images whose sides are
            lengthened to that.
        in_channels: of the images. Weights made for RGB are adapted (`segrefine.models.encoders.weights.adapt_input`),
            and so are mean and deviation.
        options: the others of `EncoderOptions`.
    """
    given = EncoderOptions(name=name, weights=weights, **options)
    encoder = _build(given, needs, in_channels)
    encoder.mean, encoder.std = (spread(values, in_channels) for values in (encoder.mean, encoder.std))
    if "multiple_of_32" in needs:
        encoder.multiple = 32
    if weights is not None and isinstance(encoder, TimmEncoder):
        encoder.load(weights)
    elif weights is not None:
        load_encoder_weights(encoder, name, weights, in_channels)
    frozen = given.frozen_stages
    if frozen and not encoder.stages[0]:
        raise UserError(f"backbone.frozen_stages={frozen}: the stages of {given.timm_name} do not follow each other.")
    for layer in (layer for stage in encoder.stages[:frozen] for layer in stage):
        layer.requires_grad_(False)
    return encoder


def _build(options: EncoderOptions, needs: Collection[str], in_channels: int) -> Encoder:
    """Build an encoder with random weights; UserError where there is none or it has not what is needed of it."""
    name = options.name
    if name not in BACKBONES:
        raise UserError(f"Unknown backbone {name!r}.{did_you_mean(name, BACKBONES)}")
    if name in VGGS:
        if "dilation" in needs:
            raise UserError(f"backbone={name}: VGG cannot be dilated here. Use a ResNet of 50 layers or more.")
        return VGGEncoder(name, options.classifier_channels if "classifier" in needs else 0, needs, in_channels)
    if asked := [OVER_VGG[need] for need in needs if need in OVER_VGG]:
        raise UserError(f"backbone={name}: {asked[-1]}")
    if name in RESNETS:
        return ResNetEncoder(name, needs, in_channels)
    if "dilation" in needs:
        raise UserError(f"backbone={name} cannot be dilated here. Use a ResNet of 50 layers or more.")
    return TimmEncoder(options.timm_name or "", needs, in_channels)
