"""Published weights: the names that their code gives to the layers, and the input they were trained on.

A `PublishedFormat` renames our tensors to those of the published code. `segrefine.load_weights` reads with it, and
`segrefine.weights.export` writes with it.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segrefine.core.channels import RGB
from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.io.tensors import misfits
from segrefine.models.decoders import DeepLabV3Decoder, DilatedFCNDecoder, FCNDecoder, RefineNetDecoder
from segrefine.models.decoders.refinenet import ChainedResidualPooling, RefineNetBlock, ResidualConvUnit
from segrefine.models.encoders.resnet import ResNetEncoder
from segrefine.models.encoders.vgg import CAFFE_MEAN, VGGEncoder
from segrefine.models.network import SegmentationModel

log = logging.getLogger(__name__)

AUXILIARY = "decoder.auxiliary."
"""What the names of auxiliary heads' tensors begin with. Files may lack them, and files for use in other code do."""

INPUT_TENSORS = ("mean", "std")
"""The network's tensors that define its input. Files of weights alone may lack them."""

_FIRST = "encoder.features.0"  # VGG's conv1_1


@dataclass(frozen=True)
class PublishedFormat:
    """The weights of one published code base.

    `layers` returns our names of a network's layers, or of whole parts of it -> the published names. `departure`
    returns how the network's computation differs from the published one; "" if it does not.
    """

    name: str  # as in `format=` of `segrefine export`
    title: str  # for messages
    marker: str  # a tensor by which its files are recognized
    scores: str  # the tensor whose first dimension is the number of classes
    decoder: type[nn.Module]  # that a network must have
    encoder: type[nn.Module]
    options: str  # how a user asks for such a network
    layers: Callable[[SegmentationModel], dict[str, str]]
    departure: Callable[[SegmentationModel], str]
    ignored: tuple[str, ...] = ()  # prefixes of published tensor names without a counterpart in a network for inference
    caffe_input: bool = False  # whether the input is BGR, 0..255 minus `CAFFE_MEAN`, instead of torchvision's

    def tensor_names(self, net: SegmentationModel) -> dict[str, str]:
        """Return our names of all tensors except `INPUT_TENSORS` -> the published names.

        Raises:
            UserError: the network is of another kind.
        """
        if not isinstance(net.decoder, self.decoder) or not isinstance(net.encoder, self.encoder):
            kinds = f"{type(net.decoder).__name__} over {type(net.encoder).__name__}"
            raise UserError(f"Weights of {self.title} are for {self.options}; the network is a {kinds}.")
        if net.in_channels != RGB:
            raise UserError(
                f"Weights of {self.title} are for RGB images; the network takes in_channels={net.in_channels}."
            )
        layers = self.layers(net)
        return {name: _rename(name, layers) for name in net.state_dict() if name not in INPUT_TENSORS}


def recognize(names: Collection[str]) -> PublishedFormat | None:
    """Return the format of a file with tensors of these names, or None.

    Raises:
        UserError: No network here is of the file's kind.
    """
    if "backbone.0.0.weight" in names:
        raise UserError(
            "These are weights of torchvision's LR-ASPP or DeepLabV3 over MobileNetV3. No encoder here is that of "
            "torchvision. DeepLabV3 over ResNet-50 or 101 can be loaded: model=deeplabv3 backbone=resnet50."
        )
    return next((form for form in FORMS if form.marker in names), None)


def from_published(
    form: PublishedFormat, net: SegmentationModel, tensors: Mapping[str, Tensor], source: Path
) -> tuple[dict[str, Tensor], str]:
    """Return the published `tensors` under our names, including the input convention, and what does not fit.

    Returns:
        The tensors, and a description of those that do not fit, by their published names ("" if all do).

    Raises:
        UserError: the network is of another kind.
    """
    names = form.tensor_names(net)
    state = net.state_dict()
    wanted = {theirs: state[ours] for ours, theirs in names.items()}
    kept = {name: tensor for name, tensor in tensors.items() if name in wanted or not name.startswith(form.ignored)}
    problems = [form.departure(net)]
    if form.caffe_input:
        scales = {name: kept.pop(name) for name in list(kept) if name.startswith("scale_pool")}
        problems.append(_other_scales(net, scales, source))
        for name in ("fc6.weight", "fc7.weight"):  # fully connected layers, recast as in the release's surgery.py
            if name in kept and name in wanted and kept[name].numel() == wanted[name].numel():
                kept[name] = kept[name].reshape(wanted[name].shape)
    problems.append(misfits(wanted, kept, [names[ours] for ours in names if ours.startswith(AUXILIARY)]))
    found = {ours: kept[theirs] for ours, theirs in names.items() if theirs in kept}
    first = found.get(f"{_FIRST}.weight")
    if form.caffe_input and first is not None and first.shape == state[f"{_FIRST}.weight"].shape:
        found[f"{_FIRST}.weight"] = first.flip(1)  # red and blue change places here instead of in the image
        found["mean"] = torch.tensor(CAFFE_MEAN).view(3, 1, 1) / 255
        found["std"] = torch.full((3, 1, 1), 1 / 255)
        if net.decoder.geometry != "caffe":
            log.warning(f"{source} was trained with model.geometry=caffe; set it to get the published scores.")
    return found, "; ".join(filter(None, problems))


def to_published(form: PublishedFormat, net: SegmentationModel) -> dict[str, Tensor]:
    """Return the network's tensors under the published names, on the CPU, for the published code's input.

    Raises:
        UserError: that code could not compute the same.
    """
    names = {ours: theirs for ours, theirs in form.tensor_names(net).items() if not ours.startswith(AUXILIARY)}
    departure = form.departure(net)
    if form.caffe_input and net.decoder.geometry != "caffe":
        departure = departure or "the release's geometry is model.geometry=caffe; this network was made without"
    if net.encoder.scale != 1:
        departure = f"other code does not resize images first, as this network does by {net.encoder.scale}"
    if not isinstance(net.decoder.context, nn.Identity):
        departure = "other code has no context module, as this network has by model.context=true"
    if net.decoder.crf is not None:
        departure = "other code has no CRF behind the network, as this one has by model.crf=true"
    if departure:
        raise UserError(f"format={form.name}: {departure}.")
    state = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    tensors = {theirs: state[ours].clone() for ours, theirs in names.items()}
    if form.caffe_input:
        # Ours takes (rgb - mean) / std of 0..1, theirs 255 rgb - CAFFE_MEAN. Another mean could not be folded in: it is
        # the color of the padding, which is 0 for both.
        if not torch.allclose(255 * state["mean"].flatten(), torch.tensor(CAFFE_MEAN)):
            raise UserError(f"format={form.name}: the network subtracts another mean color than FCN does.")
        weight = names[f"{_FIRST}.weight"]
        tensors[weight] = (tensors[weight] / (255 * state["std"])).flip(1)
    return tensors


def _fcn_departure(net: SegmentationModel) -> str:
    decoder = net.decoder
    assert isinstance(decoder, FCNDecoder)
    if decoder.strides not in ([32], [32, 16], [32, 16, 8]):
        return f"the release has no FCN with scores at strides {decoder.strides}"
    published = read_group("model", "fcn8s_atonce")["skip_scales"]
    if decoder.skip_scales not in ({}, published):
        return f"the release scales maps by {published} or not at all, the network by {decoder.skip_scales}"
    return ""


def _refinenet_departure(net: SegmentationModel) -> str:
    decoder = net.decoder
    assert isinstance(decoder, RefineNetDecoder)
    if decoder.taps != [[32], [16], [8], [4]]:
        return f"the ports have four blocks, for strides 32, 16, 8 and 4, the network {decoder.taps}"
    if decoder.options.norm:
        return "the ports have no batch norm in the decoder, the network has (model.norm)"
    units = [module for module in decoder.modules() if isinstance(module, ResidualConvUnit)]
    pools = [module for module in decoder.modules() if isinstance(module, ChainedResidualPooling)]
    if any(pool.conv_first for pool in pools):
        return "the ports pool before they convolve, the network after"
    if not all(module.shortcut for module in (*units, *pools)):
        return "the ports have identity shortcuts that are switched off in the network"
    if decoder.options.coarse_units:
        return "the ports fuse a coarser block's output as it is, the network adapts it first (model.coarse_units)"
    if len(decoder.refine):
        return "the ports have no residual conv units between the last block and the classifier"
    return ""


def _other_scales(net: SegmentationModel, scales: Mapping[str, Tensor], source: Path) -> str:
    """Describe how the file's scaling of pool3 and pool4 (FCN-8s at-once, Caffe) differs from the network's.

    Return "" if it does not. A PyTorch file does not store the scaling.
    """
    assert isinstance(net.decoder, FCNDecoder)
    if not scales and source.suffix != ".caffemodel":
        return ""
    wanted = {f"scale_{_pool(stride)}.weight": factor for stride, factor in net.decoder.skip_scales.items()}
    same = wanted.keys() == scales.keys() and all(
        torch.allclose(scales[name].float(), torch.tensor(float(factor))) for name, factor in wanted.items()
    )
    negation = "" if scales else "not "
    return "" if same else f"pool3 and pool4 are {negation}scaled in it, as they are in fcn8s_atonce alone"


def _pool(stride: int) -> str:
    """Return the name of VGG's pool at a stride."""
    return f"pool{stride.bit_length() - 1}"


def _fcn_layers(net: SegmentationModel) -> dict[str, str]:
    """Return our layer names -> conv1_1 .. conv5_3, fc6, fc7, score_fr, score_pool4 .., upscore2, upscore_pool4 ..

    The last one is upscore, with the stride in its name if there are skips.
    """
    assert isinstance(net.decoder, FCNDecoder)
    assert isinstance(net.encoder, VGGEncoder)
    layers = {"encoder.classifier.fc6": "fc6", "encoder.classifier.fc7": "fc7"}
    stage, number = 1, 1
    for index, layer in enumerate(net.encoder.features):
        if isinstance(layer, nn.Conv2d):
            layers[f"encoder.features.{index}"] = f"conv{stage}_{number}"
            number += 1
        elif isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 1
    strides = net.decoder.strides
    for stride in strides:
        layers[f"decoder.score.{stride}"] = "score_fr" if stride == strides[0] else f"score_{_pool(stride)}"
        layers[f"decoder.upsample.{stride}"] = "upscore2" if stride == strides[0] else f"upscore_{_pool(stride)}"
    layers["decoder.to_pixels"] = "upscore" if len(strides) == 1 else f"upscore{strides[-1]}"
    return layers


def _refinenet_layers(net: SegmentationModel) -> dict[str, str]:
    """Return our layer names -> the port's, which are the authors' (MatConvNet release): g1 is the coarsest block."""
    assert isinstance(net.decoder, RefineNetDecoder)
    layers = {"encoder": "", "decoder.classifier": "clf_conv"}
    for index, block in enumerate(net.decoder.blocks):
        assert isinstance(block, RefineNetBlock)
        ours, number = f"decoder.blocks.{index}", index + 1
        layers[f"{ours}.adapt.0.0"] = f"p_ims1d2_outl{number}_dimred"
        for chain, theirs, first in (("adapt.0", "adapt_stage", 1), ("refine", "mflow_conv_g", 0)):
            units = block.get_submodule(chain)
            assert isinstance(units, nn.Sequential)
            for unit in range(first, len(units)):
                name = f"{theirs}{number}_b.0.{unit - first + 1}_conv"
                layers[f"{ours}.{chain}.{unit}.conv1"] = name
                layers[f"{ours}.{chain}.{unit}.conv2"] = f"{name}_relu_varout_dimred"
        layers[f"{ours}.fuse.convs.0"] = f"adapt_stage{number}_b2_joint_varout_dimred"
        layers[f"{ours}.fuse.convs.1"] = f"mflow_conv_g{index}_b3_joint_varout_dimred"
        for link in range(len(block.pool.convs)):
            layers[f"{ours}.pool.convs.{link}"] = f"mflow_conv_g{number}_pool.0.{link + 1}_outvar_dimred"
    return layers


def _rename(name: str, layers: Mapping[str, str]) -> str:
    """Return the name with its longest prefix that `layers` knows replaced."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        if (head := ".".join(parts[:cut])) in layers:
            return ".".join(filter(None, (layers[head], *parts[cut:])))
    return name


def _torchvision(name: str, model: str, marker: str, decoder: type[nn.Module]) -> PublishedFormat:
    """Describe the files of torchvision's `model` over a dilated ResNet."""
    ours = {"fcn": "fcn_dilated"}.get(model, model)
    return PublishedFormat(
        name=name,
        title=f"torchvision's {model}_resnet50 or {model}_resnet101",
        marker=marker,
        scores="classifier.4.weight",
        decoder=decoder,
        encoder=ResNetEncoder,
        options=f"model={ours}, backbone=resnet50 or resnet101",
        layers=lambda net: {
            "encoder": "backbone",
            "decoder.head": "classifier",
            f"{AUXILIARY}0.score": "aux_classifier",
        },
        departure=lambda net: "",
        ignored=("aux_classifier.",),
    )


FORMS = (
    PublishedFormat(
        name="pytorch_fcn",
        title="FCN on VGG-16 (fcn.berkeleyvision.org's .caffemodel or pytorch-fcn's .pth)",
        marker="conv1_1.weight",
        scores="score_fr.weight",
        decoder=FCNDecoder,
        encoder=VGGEncoder,
        options="model=fcn32s, fcn16s, fcn8s or fcn8s_atonce, model.geometry=caffe, backbone=vgg16",
        layers=_fcn_layers,
        departure=_fcn_departure,
        ignored=("fc8.",),  # the scores of ImageNet's classes in a VGG-16 before surgery
        caffe_input=True,
    ),
    PublishedFormat(
        name="refinenet_pytorch",
        title="RefineNet (refinenet-pytorch) or Light-Weight RefineNet (light-weight-refinenet)",
        marker="p_ims1d2_outl1_dimred.weight",
        scores="clf_conv.weight",
        decoder=RefineNetDecoder,
        encoder=ResNetEncoder,
        options="model=refinenet or refinenet_lw, backbone=resnet50, resnet101 or resnet152",
        layers=_refinenet_layers,
        departure=_refinenet_departure,
    ),
    _torchvision("torchvision_deeplabv3", "deeplabv3", "classifier.0.convs.0.0.weight", DeepLabV3Decoder),
    _torchvision("torchvision", "fcn", "backbone.conv1.weight", DilatedFCNDecoder),
)
