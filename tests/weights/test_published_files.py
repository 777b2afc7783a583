"""Files of weights in every published form, and those that do not fit, over narrow encoders."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published.ours import published_tensors
from published.rule import filled, image
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.io.caffemodel import read_caffemodel
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import fill, load_weights
from segrefine.weights.published import FORMS, to_published

pytestmark = pytest.mark.usefixtures("narrow")

FCN, REFINENET, *_ = FORMS
SMALL_FCN = {"classifier_channels": 16, "geometry": "caffe"}


@pytest.fixture(scope="module")
def fcn(narrow: None) -> SegmentationModel:
    net = create_model("fcn8s", "vgg16", 5, **SMALL_FCN).eval()
    fill(net, published_tensors(net), Path("fcn8s.pth"))
    return net


def logits(net: SegmentationModel) -> Tensor:
    with torch.no_grad():
        return net(net.preprocess(image((40, 61)).float()))


def again(path: Path, model: str = "fcn8s", backbone: str = "vgg16", **options: Any) -> Tensor:
    """Outputs of a new FCN filled from a file."""
    net = create_model(model, backbone, 5, **SMALL_FCN | options).eval()
    load_weights(net, path)
    return logits(net)


def test_input_of_fcns_weights_is_folded_in(fcn: SegmentationModel) -> None:
    """Red and blue change places in the first layer, mean and scale are declared."""
    rgb = image((40, 61)).float()
    mean = torch.tensor((122.67892, 116.66877, 104.00699)).view(3, 1, 1)
    torch.testing.assert_close(fcn.preprocess(rgb), 255 * rgb - mean, rtol=1e-5, atol=1e-3)
    weight = filled("conv1_1.weight", fcn.encoder.features[0].weight)
    assert torch.equal(fcn.encoder.features[0].weight, weight.flip(1))


@pytest.mark.parametrize("entry", [None, "model_state_dict", "segmenter"])
def test_wrapped_files_are_taken(fcn: SegmentationModel, entry: str | None, tmp_path: Path) -> None:
    tensors = to_published(FCN, fcn)
    torch.save({entry: tensors, "epoch": 3} if entry else tensors, tmp_path / "fcn.pth")
    torch.testing.assert_close(again(tmp_path / "fcn.pth"), logits(fcn), rtol=1e-5, atol=1e-4)


def test_names_of_data_parallel_are_taken(tmp_path: Path) -> None:
    net = create_model("refinenet_lw", "resnet18", 3, widths={4: 8, 8: 8, 16: 8, 32: 8}).eval()
    tensors = {f"module.{name}": tensor for name, tensor in to_published(REFINENET, net).items()}
    torch.save({"segmenter": tensors, "epoch_start": 4}, tmp_path / "lw.pth.tar")
    other = create_model("refinenet_lw", "resnet18", 3, widths={4: 8, 8: 8, 16: 8, 32: 8}).eval()
    load_weights(other, tmp_path / "lw.pth.tar")
    assert torch.equal(logits(other), logits(net))


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes, text, a message or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: Tensor, legacy: bool) -> bytes:
    data = field(5, tensor.numpy().astype("<f4").tobytes())
    if not legacy:
        return field(7, field(1, b"".join(map(varint, tensor.shape)))) + data
    shape = [1] * (4 - tensor.ndim) + list(tensor.shape)
    return b"".join(varint(number << 3) + varint(side) for number, side in enumerate(shape, 1)) + data


def caffemodel(tensors: dict[str, Tensor], v1: bool) -> bytes:
    """A file as Caffe writes it, with fields that are not read among the others."""
    layer_field, name_field, blobs_field = (2, 4, 6) if v1 else (100, 1, 7)
    layers = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    content = field(1, b"FCN") + field(layer_field, field(name_field, b"data"))
    for layer in layers:
        blobs = [tensors[f"{layer}.{kind}"] for kind in ("weight", "bias") if f"{layer}.{kind}" in tensors]
        written = b"".join(field(blobs_field, blob(tensor, legacy=v1)) for tensor in blobs)
        content += field(layer_field, field(name_field, layer.encode()) + field(3, b"data") + written)
    return content


@pytest.fixture(scope="module")
def small(narrow: None) -> SegmentationModel:
    """The smallest that has the names; VGG-11 lacks some layers of VGG-16, and the file too."""
    net = create_model("fcn16s", "vgg11", 5, classifier_channels=2, geometry="caffe").eval()
    fill(net, published_tensors(net), Path("fcn16s.pth"))
    return net


@pytest.mark.parametrize("v1", [False, True])
def test_caffemodel_of_either_form_gives_the_same_outputs(v1: bool, small: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / "fcn16s.caffemodel"
    tensors = to_published(FCN, small)
    path.write_bytes(caffemodel(tensors, v1))
    found = again(path, "fcn16s", "vgg11", classifier_channels=2)
    torch.testing.assert_close(found, logits(small), rtol=1e-5, atol=1e-4)
    read = read_caffemodel(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1000], "cannot be read as a .caffemodel"),
        (lambda content: b"", "holds no layer with weights"),
        (lambda content: b"\x00garbage" + content, "cannot be read as a .caffemodel"),
        (
            lambda _: field(100, field(1, b"fc") + field(7, field(7, field(1, b"\x02\x02")) + field(5, bytes(12)))),
            "weight of layer 'fc' has 3 numbers, which do not fill its shape [2, 2]",
        ),
    ],
)
def test_broken_caffemodels_are_refused(change: Callable, words: str, small: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / "broken.caffemodel"
    path.write_bytes(change(caffemodel({"conv1_1.weight": torch.ones(64, 3, 3, 3)}, v1=False)))
    with pytest.raises(UserError) as caught:
        load_weights(small, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_scaled_pools_of_a_caffemodel_have_to_be_the_networks(tmp_path: Path) -> None:
    atonce = create_model("fcn8s_atonce", "vgg11", 5, classifier_channels=2, geometry="caffe").eval()
    tensors = to_published(FCN, atonce)
    scales = {"scale_pool4.weight": torch.full((512,), 0.01), "scale_pool3.weight": torch.full((256,), 1e-4)}
    path = tmp_path / "atonce.caffemodel"
    path.write_bytes(caffemodel(tensors | scales, v1=False))
    options = {"classifier_channels": 2, "geometry": "caffe"}
    load_weights(create_model("fcn8s_atonce", "vgg11", 5, **options), path)
    with pytest.raises(UserError, match="pool3 and pool4 are scaled in it, as they are in fcn8s_atonce alone"):
        load_weights(create_model("fcn8s", "vgg11", 5, **options), path)
    path.write_bytes(caffemodel(tensors, v1=False))
    with pytest.raises(UserError, match="pool3 and pool4 are not scaled in it"):
        load_weights(atonce, path)


@pytest.mark.parametrize(
    ("model", "backbone", "options", "words"),
    [
        ("fcn8s", "vgg16", SMALL_FCN | {"classifier_channels": 8}, "fc6.bias (16,) instead of (8,)"),
        ("fcn16s", "vgg16", SMALL_FCN, "missing: upscore16.weight; unknown: score_pool3.bias, score_pool3.weight"),
        ("fcn8s", "vgg13", SMALL_FCN, "unknown: conv3_3.bias"),
        ("fcn8s", "resnet18", {}, "Weights of FCN on VGG-16"),
        ("fcn4s", "vgg16", SMALL_FCN, "the release has no FCN with scores at strides [32, 16, 8, 4]"),
        ("refinenet_lw", "resnet18", {}, "for model=fcn32s, fcn16s, fcn8s or fcn8s_atonce, model.geometry=caffe"),
    ],
)
def test_other_networks_are_refused_with_the_published_names(
    model: str, backbone: str, options: dict[str, Any], words: str, fcn: SegmentationModel, tmp_path: Path
) -> None:
    torch.save(to_published(FCN, fcn), tmp_path / "fcn8s.pth")
    net = create_model(model, backbone, 5, **options)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(net, tmp_path / "fcn8s.pth")
    assert words in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_other_number_of_classes_is_refused_unless_a_part_is_asked_for(
    fcn: SegmentationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(to_published(FCN, fcn), tmp_path / "fcn8s.pth")
    net = create_model("fcn8s", "vgg16", 7, **SMALL_FCN)
    with pytest.raises(UserError, match=r"score_fr\.bias \(5,\) instead of \(7,\)"):
        load_weights(net, tmp_path / "fcn8s.pth")
    load_weights(net, tmp_path / "fcn8s.pth", strict=False)
    assert torch.equal(net.encoder.classifier.fc6.weight, fcn.encoder.classifier.fc6.weight)
    assert "32 of the network's" in caplog.text
    assert "score_fr.weight (5, 16, 1, 1) instead of (7, 16, 1, 1)" in caplog.text


def test_weights_of_vgg_before_surgery_start_an_fcn(small: SegmentationModel, tmp_path: Path) -> None:
    """Fully connected layers are recast, ImageNet's scores are left out, and the new layers have to be asked for."""
    tensors = {name: tensor for name, tensor in to_published(FCN, small).items() if "score" not in name}
    tensors |= {f"fc{layer}.weight": tensors[f"fc{layer}.weight"].flatten(1) for layer in (6, 7)}
    tensors |= {"fc8.weight": torch.ones(1000, 2), "fc8.bias": torch.ones(1000)}
    path = tmp_path / "vgg.caffemodel"
    path.write_bytes(caffemodel(tensors, v1=True))
    net = create_model("fcn16s", "vgg11", 5, classifier_channels=2, geometry="caffe")
    with pytest.raises(UserError, match=r"missing: score_fr\.bias"):
        load_weights(net, path)
    load_weights(net, path, strict=False)
    for name, parameter in small.encoder.named_parameters():
        assert torch.equal(net.encoder.get_parameter(name), parameter), name
    assert not net.decoder.score["32"].weight.any()


def test_input_is_the_files_only_where_its_first_layer_is(fcn: SegmentationModel, tmp_path: Path) -> None:
    net = create_model("fcn8s", "vgg16", 5, **SMALL_FCN)
    before = net.std.clone()
    tensors = to_published(FCN, fcn)
    for wrong in (torch.tensor(1.0), torch.ones(64, 3, 5, 5)):
        torch.save(tensors | {"conv1_1.weight": wrong}, tmp_path / "fcn.pth")
        with pytest.raises(UserError, match=r"of another shape: conv1_1\.weight"):
            load_weights(net, tmp_path / "fcn.pth")
        load_weights(net, tmp_path / "fcn.pth", strict=False)
        assert torch.equal(net.std, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crp_conv_first": True}, "the ports pool before they convolve"),
        ({"rcu_shortcut": False}, "the ports have identity shortcuts"),
        ({"crp_shortcut": False}, "the ports have identity shortcuts"),
        ({"cascade": [[32, 16], [8, 4]]}, "the ports have four blocks"),
        ({"norm": True}, "the ports have no batch norm in the decoder"),
        ({"classifier_units": 2}, "no residual conv units between the last block and the classifier"),
        ({"coarse_units": 2}, "the ports fuse a coarser block's output as it is"),
        ({"crp_links": 2}, "unknown: mflow_conv_g1_pool.0.3_outvar_dimred.weight"),
    ],
)
def test_refinenets_that_compute_something_else_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    small = {"widths": {4: 8, 8: 8, 16: 8, 32: 8}}
    torch.save(to_published(REFINENET, create_model("refinenet", "resnet18", 3, **small)), tmp_path / "rf.pth")
    with pytest.raises(UserError, match=re.escape(words)):
        load_weights(create_model("refinenet", "resnet18", 3, **small | options), tmp_path / "rf.pth")


def test_geometry_the_weights_were_not_made_for_is_told(
    fcn: SegmentationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(to_published(FCN, fcn), tmp_path / "fcn8s.pth")
    load_weights(create_model("fcn8s", "vgg16", 5, classifier_channels=16), tmp_path / "fcn8s.pth")
    assert "was trained with model.geometry=caffe" in caplog.text
