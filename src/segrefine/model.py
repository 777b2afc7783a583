"""The assembly of any encoder with any decoder into a segmentation network, and `create_model`, which builds one by
name.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.configs import read_group
from segrefine.decoders.base import Decoder
from segrefine.encoders import create_encoder
from segrefine.encoders.base import MIN_SIDE, Encoder
from segrefine.encoders.multiscale import MultiScaleEncoder, scaled_size
from segrefine.errors import UserError, did_you_mean
from segrefine.targets import find_class
from segrefine.upsampling import Rows

# What torchvision's ImageNet weights were trained with (torchvision/transforms/_presets.py, ImageClassification).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CAFFE_MEAN = (122.67892, 116.66877, 104.00699)
"""Mean red, green and blue, 0..255, that FCN's release takes from its images (voc_layers.py, as BGR)."""


class SegmentationModel(nn.Module):
    """An encoder and a decoder. Nothing but the decoder differs between the networks that are compared.

    `mean` and `std`, (3, 1, 1) float32 of RGB in [0, 1], say what input the weights are made for: torchvision's, but
    published weights bring their own, and in Caffe's geometry the mean is the colour of its padding, the release's.
    Letters: B batch, K classes, H W input size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    layout = torch.contiguous_format
    """The order in memory in which images should come; see `lay_out`."""

    def lay_out(self, device: torch.device) -> None:
        """Put the weights into the order in memory that is fastest on `device`, and `layout` with them."""
        self.layout = self.encoder.cpu_layout if device.type == "cpu" else torch.channels_last
        self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) float in [0, 1] -> what `forward` takes: less `mean`, over `std`."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor, upsampled: bool = True) -> Tensor:
        """(B, 3, H, W) float, normalised RGB, H and W >= 32 -> logits (B, K, H, W) float32; ValueError below 32.

        With `upsampled=False` the decoder's scores on their coarser grid, (B, K, h, w), for `upsample` and `rows`.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"The network takes a float tensor (B, 3, H, W), not {images.dtype} of shape {tuple(images.shape)}."
            )
        size = images.shape[-2:]
        if size[0] < MIN_SIDE or size[1] < MIN_SIDE:  # not by min(): torch.export would then fix which side is shorter
            raise UserError(f"Images must be at least {MIN_SIDE}x{MIN_SIDE} pixels; this one is {size[0]}x{size[1]}.")
        scores = self.decoder(self.encoder(images))
        return self.upsample(scores, (size[0], size[1])) if upsampled else scores

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """The decoder's scores (B, K, h, w) -> logits (B, K, *size) float32, each on the pixels it comes from."""
        scale = self.encoder.scale
        with torch.autocast(scores.device.type, enabled=False):
            logits = self.decoder.to_pixels(_single(scores), size if scale == 1 else scaled_size(size, scale))
            return logits if scale == 1 else F.interpolate(logits, size, mode="bilinear")

    @property
    def has_rows(self) -> bool:
        """Whether logits can be had by `rows`: upsampling is by a whole stride and ends at the image's size."""
        return self.encoder.scale == 1 and isinstance(self.decoder.to_pixels, Rows)

    def rows(self, scores: Tensor, width: int, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom` of what `upsample` gives, (B, K, bottom - top, width) float32, of the rest nothing."""
        with torch.autocast(scores.device.type, enabled=False):
            to_pixels = self.decoder.to_pixels
            assert isinstance(to_pixels, Rows)
            return to_pixels.rows(_single(scores), width, top, bottom)


def _single(scores: Tensor) -> Tensor:
    """In float32: the metrics compare logits, and bilinear gradients are slow in bfloat16 (pytorch issue 140096). A
    float64 network stays in float64.
    """
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def create_model(name: str, backbone: str = "resnet18", num_classes: int = 21, **options: Any) -> SegmentationModel:
    """A network by the names of the config groups: `create_model("refinenet", backbone="resnet101", num_classes=21)`.

    Args:
        name: a file of `conf/model`. backbone: a file of `conf/backbone`. num_classes: K, at least 1.
        options: options of either group, such as `upsample="fixed"`, `crp_links=2` or `weights="imagenet"`.
    """
    model, encoder = read_group("model", name), read_group("backbone", backbone)
    for key, value in options.items():
        home = encoder if key in encoder else model
        if key not in home or key in ("name", "_target_"):
            known = (model.keys() | encoder.keys()) - {"name", "_target_"}
            raise UserError(f"{name} over {backbone} has no option {key!r}.{did_you_mean(key, known)}")
        home[key] = value
    return build_model(model, encoder, num_classes)


def build_model(model: Mapping[str, Any], backbone: Mapping[str, Any], num_classes: int) -> SegmentationModel:
    """A network from the contents of one `conf/model` and one `conf/backbone` file."""
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes must be a whole number of at least 1, not {num_classes!r}.")
    options = {key: value for key, value in model.items() if key not in ("name", "_target_", "input_scales")}
    decoder_class = find_class("model._target_", model.get("_target_"), Decoder)
    parameters = list(inspect.signature(decoder_class).parameters)[3:]
    _check_options(f"model={model['name']}", options, parameters)
    missing = [name for name in parameters if name not in options]
    if missing:
        raise UserError(f"model={model['name']} lacks the options {', '.join(missing)}; is it from another version?")
    known = inspect.signature(create_encoder).parameters.keys() - {"needs"}  # those are the decoder's to say
    _check_options(f"backbone={backbone['name']}", backbone, known)
    needs = [*decoder_class.needs, *(["caffe"] if model.get("geometry") == "caffe" else [])]
    scales = model.get("input_scales") or [1.0]
    encoders = [create_encoder(**backbone, needs=needs) for _ in scales]
    encoder = encoders[0] if list(scales) == [1.0] else MultiScaleEncoder(encoders, scales)
    decoder = decoder_class(encoder.channels, encoder.centres, num_classes, **options)
    net = SegmentationModel(encoder, decoder)
    if "caffe" in needs:
        net.mean.copy_(torch.tensor(CAFFE_MEAN).view(3, 1, 1) / 255)
    return net


def _check_options(where: str, options: Iterable[str], known: Collection[str]) -> None:
    for key in options:
        if key not in known:
            raise UserError(f"{where} has no option {key!r}.{did_you_mean(key, known)}")
