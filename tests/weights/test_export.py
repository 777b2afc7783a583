"""Exported files give the network's outputs in the code they are for."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import TypeIn
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from segrefine.cli.command import MISTAKE
from segrefine.cli.options import GivenCheckpoint
from segrefine.core.config import CONFIG_FOLDER, read_group
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_colour_map
from segrefine.models.build import build_model, create_model
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import KEY, describe
from segrefine.weights.export import FORMATS, FromRGB, export, largest_difference

CLASSES = ["left", "right", "none"]
WIDTHS = {"widths": {4: 8, 8: 8, 16: 8, 32: 8}}
NETWORKS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "torchvision": ("fcn_dilated", "resnet50", {}, {}),
    "pytorch_fcn": ("fcn16s", "vgg11", {"geometry": "caffe"}, {"classifier_channels": 4}),
    "refinenet_pytorch": ("refinenet", "resnet18", WIDTHS, {}),
    "onnx": ("fcn8s", "vgg11", {}, {"classifier_channels": 4}),
    "torch_export": ("refinenet_lw", "vgg11", WIDTHS, {}),
    "same": ("fcn32s", "vgg11", {}, {"classifier_channels": 4}),
}


def configs(name: str) -> dict[str, Any]:
    model, backbone, of_model, of_backbone = NETWORKS[name]
    return {"model": read_group("model", model) | of_model, "backbone": read_group("backbone", backbone) | of_backbone}


def network(name: str) -> SegmentationModel:
    """With random scores."""
    torch.manual_seed(0)
    net = build_model(*configs(name).values(), len(CLASSES)).eval()
    for layer in net.decoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels == len(CLASSES):
            nn.init.normal_(layer.weight, std=0.1)
    return net


def saved(net: SegmentationModel, name: str, folder: Path) -> Path:
    """A run's checkpoint of the network."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    about = describe(configs(name) | {"datamodule": {"name": None}}, CLASSES, voc_colour_map(3))
    torch.save({"state_dict": tensors, KEY: about}, folder / "best.ckpt")
    return folder / "best.ckpt"


def config(*arguments: str) -> DictConfig:
    GivenCheckpoint().register(list(arguments))
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("export", overrides=list(arguments))


def rgb(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["torchvision", "onnx", "torch_export"])
def test_what_is_exported_gives_the_networks_outputs(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Read by other code, for another size and number of images."""
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    net = network(name)
    suffix = {"onnx": ".onnx", "torch_export": ".pt2"}.get(name, ".pth")
    output = tmp_path / "out" / f"net{suffix}"
    with caplog.at_level("INFO"):
        export(config(f"checkpoint={saved(net, name, tmp_path)}", f"format={name}", f"output={output}"))
    assert f"{output}: {name}," in caplog.text
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    images = rgb(3, 3, 64, 117)
    with torch.no_grad():
        expected, found = FromRGB(net)(images), READERS[name](output)(images)
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_two_scales_are_exported_for_any_size(name: str, tmp_path: Path) -> None:
    net = create_model("refinenet_2scale", "resnet18", 3, **WIDTHS).eval()
    with torch.no_grad():
        exported = FORMATS[name](net, {}, tmp_path / "net")
        assert largest_difference(FromRGB(net), exported) < 1e-4


def test_from_the_command_line(tmp_path: Path, type_in: TypeIn) -> None:
    net = network("refinenet_pytorch")
    arguments = [f"checkpoint={saved(net, 'refinenet_pytorch', tmp_path)}", f"output={tmp_path / 'net.pth'}"]
    assert type_in("segrefine.export", *arguments, "format=refinenet_pytorch").returncode == 0
    names = torch.load(tmp_path / "net.pth", weights_only=True).keys()
    assert {"conv1.weight", "mflow_conv_g1_b.0.3_conv.bias", "clf_conv.bias"} <= names
    assert "torch_export       a .pt2" in type_in("segrefine.export", "--help").stdout
    wrong = type_in("segrefine.export", *arguments, "format=onx")
    assert wrong.returncode == MISTAKE
    assert "There is no format 'onx'. Did you mean 'onnx'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("name", ["pytorch_fcn", "refinenet_pytorch"])
def test_weights_of_the_ports_go_there_and_back(name: str, tmp_path: Path) -> None:
    """That the names are the ports' is for test_published.py to say."""
    net = network(name)
    again = FORMATS[name](net, configs(name), tmp_path / "net.pth")
    assert largest_difference(FromRGB(net), again) < 1e-5


def torchvisions(path: Path) -> Any:
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=False
    )
    theirs.load_state_dict(torch.load(path, weights_only=True))
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return lambda images: theirs.eval()(normalise(images))["out"]


def onnx(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


READERS = {
    "torchvision": torchvisions,
    "onnx": onnx,
    "torch_export": lambda path: torch.export.load(path).module(),
}


def test_fcns_input_is_folded_into_the_exported_weights(tmp_path: Path) -> None:
    """The first layer gives on FCN's own input, padding included, what it gives on ours."""
    net = network("pytorch_fcn")
    FORMATS["pytorch_fcn"](net, configs("pytorch_fcn"), tmp_path / "net.pth")
    tensors = torch.load(tmp_path / "net.pth", weights_only=True)
    images = rgb(1, 3, 20, 20)
    mean = torch.tensor((104.00699, 116.66877, 122.67892)).view(3, 1, 1)
    weight, bias = tensors["conv1_1.weight"], tensors["conv1_1.bias"]
    theirs = nn.functional.conv2d(255 * images.flip(1) - mean, weight, bias, padding=100)
    with torch.no_grad():
        torch.testing.assert_close(theirs, net.encoder.features[0](net.preprocess(images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("refinenet_pytorch", ["format=torchvision"], "Weights of torchvision's fcn_resnet50 or fcn_resnet101 are for"),
        ("refinenet_pytorch", ["format=pytorch_fcn"], "Weights of FCN on VGG-16"),
        ("same", ["format=pytorch_fcn"], "format=pytorch_fcn: the release's geometry is model.geometry=caffe"),
        ("onnx", [], "Give format=..."),
        ("onnx", ["format=onnx", "output=."], "output=. is a folder"),
        ("onnx", ["format=torch_export", "output=/dev/null/net.pt2"], "output=/dev/null/net.pt2 cannot be written"),
    ],
)
def test_mistakes_are_told_in_words(name: str, arguments: list[str], words: str, tmp_path: Path) -> None:
    path = saved(network(name), name, tmp_path)
    output = [] if "output=" in "".join(arguments) else [f"output={tmp_path / 'net.bin'}"]
    with pytest.raises(UserError, match=re.escape(words)):
        export(config(f"checkpoint={path}", *output, *arguments))
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(("factor", "words"), [(1.01, r"by 0\.01 of the largest"), (math.nan, "by nan of the largest")])
def test_a_file_whose_outputs_differ_is_not_written(
    factor: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrongly(net: SegmentationModel, config: dict[str, Any], path: Path) -> Any:
        path.write_text("wrong")
        return lambda images: factor * FromRGB(net)(images)

    path = saved(network("onnx"), "onnx", tmp_path)
    monkeypatch.setitem(FORMATS, "onnx", write_wrongly)
    cfg = config(f"checkpoint={path}", "format=onnx", f"output={tmp_path / 'net.onnx'}")
    with pytest.raises(UserError, match=words):
        export(cfg)
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
