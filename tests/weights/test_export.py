"""Exported files give the network's outputs in the code they are for."""

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TypeIn
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from segrefine.cli.command import MISTAKE
from segrefine.cli.options import GivenCheckpoint
from segrefine.core.config import CONFIG_FOLDER, read_group
from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.models.build import build_model
from segrefine.models.network import SegmentationModel
from segrefine.weights.checkpoint import KEY, describe
from segrefine.weights.export import FORMATS, FromImages, _program, export, largest_difference, least_side

pytestmark = pytest.mark.usefixtures("narrow")

CLASSES = ["left", "right", "none"]
WIDTHS = {"widths": {4: 8, 8: 8, 16: 8, 32: 8}}
UNITS = {"adapt_units": 0, "output_units": 0}
NETWORKS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "pytorch_fcn": ("fcn16s", "vgg11", {"geometry": "caffe"}, {"classifier_channels": 4}),
    "refinenet_pytorch": ("refinenet", "resnet18", WIDTHS, {}),
    "fcn": ("fcn8s", "resnet18", {}, {}),
    # Few layers: what PyTorch keeps of the sizes, and so its time, grows with each.
    "two_scales": ("refinenet_2scale", "vgg11", WIDTHS | {"cascade": [[32, 8]], "crp_links": 1} | UNITS, {}),
    "scaled": ("fcn32s", "vgg11", {"input_scale": 1.2}, {"classifier_channels": 4}),
    "crf": ("fcn16s", "vgg11", {"geometry": "caffe", "crf": True}, {"classifier_channels": 4}),
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
    about = describe(configs(name) | {"datamodule": {"name": None}}, CLASSES, voc_color_map(3))
    torch.save({"state_dict": tensors, KEY: about}, folder / "best.ckpt")
    return folder / "best.ckpt"


def config(*arguments: str) -> DictConfig:
    GivenCheckpoint().register(list(arguments))
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("export", overrides=list(arguments))


def rgb(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(3))


def check(net: SegmentationModel, read: Any, sizes: Sequence[tuple[int, int, int]]) -> None:
    """What was exported and read again gives the network's outputs, for other sizes and numbers of images."""
    for count, height, width in sizes:
        images = rgb(count, 3, height, width)
        with torch.no_grad():
            expected, found = FromImages(net)(images), read(images)
        assert found.shape == (count, 3, height, width)
        assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.fixture
def onnx() -> Any:
    """Reads a file of ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def read(path: Path) -> Any:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return read


def test_a_file_of_onnx_gives_the_networks_outputs(onnx: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net, output = network("same"), tmp_path / "out" / "net.onnx"
    with caplog.at_level("INFO"):
        export(config(f"checkpoint={saved(net, 'same', tmp_path)}", "format=onnx", f"output={output}"))
    assert f"{output}: onnx," in caplog.text
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    check(net, onnx(output), [(3, 64, 117), (1, 131, 65), (2, 64, 64)])


@pytest.mark.slow
def test_a_network_of_two_scales_is_exported_for_any_size(
    onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.6 an image of 107 pixels has 64."""
    net, sizes = network("two_scales"), [(3, 107, 118), (1, 131, 107)]
    assert least_side(net) == 107
    monkeypatch.setattr("segrefine.weights.export._program", cache(_program))  # tracing takes seconds
    check(net, FORMATS["torch_export"](net, {}, tmp_path / "net.pt2"), sizes)
    FORMATS["onnx"](net, {}, tmp_path / "net.onnx")
    check(net, onnx(tmp_path / "net.onnx"), sizes)


@pytest.mark.slow
def test_a_network_that_resizes_images_is_exported_for_any_size(onnx: Any, tmp_path: Path) -> None:
    """At 1.2 an image of 54 pixels has 65."""
    net = network("scaled")
    assert least_side(net) == 54
    FORMATS["onnx"](net, {}, tmp_path / "net.onnx")
    check(net, onnx(tmp_path / "net.onnx"), [(3, 54, 117), (1, 131, 65)])


def test_a_network_that_resizes_images_is_none_of_other_code(tmp_path: Path) -> None:
    net = network("refinenet_pytorch")
    net.encoder.scale = 1.2
    with pytest.raises(UserError, match=r"format=refinenet_pytorch: other code does not resize images first.* by 1\.2"):
        FORMATS["refinenet_pytorch"](net, configs("refinenet_pytorch"), tmp_path / "net.pth")


def test_a_network_with_a_crf_is_no_program_and_none_of_other_code(tmp_path: Path) -> None:
    net = network("crf")
    path = saved(net, "crf", tmp_path)
    for form, words in {
        "onnx": r"format=onnx cannot hold model\.crf=true: it joins cells in blocks",
        "torch_export": r"format=torch_export cannot hold model\.crf=true",
        "pytorch_fcn": r"format=pytorch_fcn: other code has no CRF behind the network",
    }.items():
        with pytest.raises(UserError, match=words):
            export(config(f"checkpoint={path}", f"format={form}", f"output={tmp_path / 'net'}"))
    assert not (tmp_path / "net").exists()


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
    assert largest_difference(FromImages(net), again) < 1e-5


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
        ("fcn", ["format=pytorch_fcn"], "Weights of FCN on VGG-16"),
        ("same", ["format=pytorch_fcn"], "format=pytorch_fcn: the release's geometry is model.geometry=caffe"),
        ("fcn", [], "Give format=..."),
        ("fcn", ["format=onnx", "output=."], "output=. is a folder"),
        ("fcn", ["format=torch_export", "output=/dev/null/net.pt2"], "output=/dev/null/net.pt2 cannot be written"),
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
        return lambda images: factor * FromImages(net)(images)

    path = saved(network("fcn"), "fcn", tmp_path)
    monkeypatch.setitem(FORMATS, "onnx", write_wrongly)
    cfg = config(f"checkpoint={path}", "format=onnx", f"output={tmp_path / 'net.onnx'}")
    with pytest.raises(UserError, match=words):
        export(cfg)
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
