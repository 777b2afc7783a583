"""Networks by name: `create_model`, and how a config of model and backbone becomes a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from segrefine.core.config import names_with, read_group
from segrefine.core.errors import UserError, did_you_mean
from segrefine.core.labels import VOID
from segrefine.core.options import Positive, make_options
from segrefine.core.registry import DECODERS
from segrefine.models.crf import CRFLayer
from segrefine.models.decoders.base import Decoder
from segrefine.models.decoders.context import DilationContext
from segrefine.models.encoders import EncoderOptions, create_encoder
from segrefine.models.encoders.multiscale import MultiScaleEncoder
from segrefine.models.init import Init, initialize
from segrefine.models.network import SegmentationModel

NAMES = {"name", DECODERS.key}
"""Entries of a file of `conf/model` that are not options."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of `conf/model/*.yaml` that every decoder has, beside its own.

    Attributes:
        init: how the decoder's convolutions start, see `segrefine.models.init`.
        input_scale: by which images are resized before the encoder; the logits have the image's own size. RefineNet's
            release has 1.2 (guosheng/refinenet, main/gen_net_opts_model_type1.m, do_config_refinenet).
        input_scales: in place of `input_scale` several, with an encoder for each; RefineNet's two-scale variant has 1.2
            and 0.6 (same place). One entry is the same as `input_scale`.
        context: whether scores go through the dilation context module, see `segrefine.models.decoders.context`.
        crf: whether logits go through a trained CRF, see `segrefine.models.crf`.
    """

    init: Init = "default"
    input_scale: Positive = 1.0
    input_scales: Sequence[Positive] = ()
    context: bool = False
    crf: bool = False


def create_model(
    name: str, backbone: str = "resnet18", num_classes: int = 21, in_channels: int = 3, **options: Any
) -> SegmentationModel:
    """Build a network by the names of the config groups.

    Example: `create_model("refinenet", backbone="resnet101", num_classes=21, crp_links=2)`.

    Args:
        name: a value of the group `model`, such as "fcn8s", or a decoder that a user registered.
        backbone: a value of the group `backbone`.
        num_classes: K, from 1 to 255.
        in_channels: of the images: 3 for RGB, 1 for gray, more for RGB with further channels behind it.
        options: options of either group, such as `upsample="fixed"`, `crp_links=2` or `weights="imagenet"`.

    Raises:
        UserError: A name or an option is unknown, or the two do not go together.
    """
    model, encoder = read_group("model", name), read_group("backbone", backbone)
    for key, value in options.items():
        home = encoder if key in encoder else model
        if key not in home or key in NAMES:
            known = (model.keys() | encoder.keys()) - NAMES
            others = [] if key in NAMES else names_with("model", key)
            hint = f" It is one of model={', '.join(others)}." if others else did_you_mean(key, known)
            raise UserError(f"{name} over {backbone} has no option {key!r}.{hint}")
        home[key] = value
    return build_model(model, encoder, num_classes, in_channels)


def build_model(
    model: Mapping[str, Any], backbone: Mapping[str, Any], num_classes: int, in_channels: int = 3
) -> SegmentationModel:
    """Build a network from the contents of one `conf/model` and one `conf/backbone` file."""
    for count, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(number, int) or number < 1:
            raise UserError(f"{count} must be a whole number of at least 1, not {number!r}.")
    if num_classes > VOID:
        raise UserError(f"num_classes={num_classes}: at most {VOID} fit into labels of 8 bits, where {VOID} is void.")
    kind = DECODERS.find(model.get(DECODERS.key))
    if not issubclass(kind, Decoder):
        name = f"model.{DECODERS.key}={model[DECODERS.key]}"
        raise UserError(f"{name}: {kind.__qualname__} must extend segrefine.Decoder.")
    given = {key: value for key, value in model.items() if key not in NAMES}
    shared = {field.name: given.pop(field.name) for field in fields(NetworkOptions) if field.name in given}
    network = make_options(NetworkOptions, shared, f"model={model['name']}", "model.")
    options = make_options(kind.Options, given, f"model={model['name']}", "model.")
    encoder_options = make_options(EncoderOptions, backbone, f"backbone={backbone['name']}", "backbone.")
    if len(network.input_scales) > 1 and not kind.takes_scales:
        raise UserError(f"model.input_scales: model={model['name']} takes one scale. Use model.input_scale.")
    scales = network.input_scales or [network.input_scale]
    needs = kind.needs(options)
    encoders = [create_encoder(**vars(encoder_options), needs=needs, in_channels=in_channels) for _ in scales]
    encoder = encoders[0] if len(scales) == 1 else MultiScaleEncoder(encoders, scales)
    encoder.scale = float(max(scales))
    more = {"depths": encoder.depths} if "indices" in needs else {}
    decoder = kind(encoder.channels, encoder.centers, num_classes, options, **more)
    initialize(decoder, network.init)
    if network.context:  # after that, since it starts as the identity
        decoder.context = DilationContext(num_classes)
    if network.crf:
        decoder.crf = CRFLayer(num_classes)
    return SegmentationModel(encoder, decoder)
