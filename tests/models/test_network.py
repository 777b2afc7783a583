"""Every model over every backbone; what the assembly promises of sizes, dtypes and positions; its words of refusal."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch._dynamo.utils import counters

from segrefine.core.config import CONFIG_FOLDER, read_group
from segrefine.core.errors import UserError
from segrefine.models.build import build_model, create_model
from segrefine.models.encoders import BACKBONES
from segrefine.models.encoders.multiscale import MultiScaleEncoder
from segrefine.models.encoders.resnet import ResNetEncoder
from segrefine.models.network import SegmentationModel

pytestmark = pytest.mark.usefixtures("narrow")

Build = Callable[..., SegmentationModel]
MODELS = sorted(file.stem for file in (CONFIG_FOLDER / "model").glob("*.yaml"))
DILATED = ("fcn_dilated", "deeplabv3")
BOTTLENECKS = ("resnet50", "resnet101", "resnet152")
EVERY_PAIR = [(model, backbone) for backbone in BACKBONES for model in MODELS]  # by backbone, to share its weights
OVER_VGG = ("deeplab_largefov", "segnet", "deconvnet", "deconvnet_slim")
REFUSED = [
    *(pair for pair in EVERY_PAIR if pair[0] in DILATED and pair[1] not in BOTTLENECKS),
    *(pair for pair in EVERY_PAIR if pair[0] in OVER_VGG and not pair[1].startswith("vgg")),
]
PAIRS = [pair for pair in EVERY_PAIR if pair not in REFUSED]
SMALL = [pair for pair in PAIRS if pair[1] in ("vgg11", "resnet18", "timm")]
EACH_DECODER = ("vgg11", "vgg16_bn", "resnet18", "resnet50", "timm")  # a backbone of each kind, with every model
EACH_BACKBONE = ("fcn8s", "fcn_dilated", "refinenet", "segnet")  # a model of each kind, over every backbone
SLOW_PAIRS = {pair for pair in PAIRS if pair[0] not in EACH_BACKBONE and pair[1] not in EACH_DECODER}


def test_the_pairs_are_all_models_times_all_backbones() -> None:
    assert (len(MODELS), len(BACKBONES), len(PAIRS), len(REFUSED)) == (27, 14, 332, 46)
    assert set(BACKBONES) == {file.stem for file in (CONFIG_FOLDER / "backbone").glob("*.yaml")}


@pytest.mark.parametrize(
    ("name", "backbone"), [pytest.param(*pair, marks=pytest.mark.slow if pair in SLOW_PAIRS else ()) for pair in PAIRS]
)
def test_every_pair_goes_forward_and_back_at_an_odd_size(name: str, backbone: str, cheap_model: Build) -> None:
    net = cheap_model(name, backbone)
    logits = net(torch.randn(2, 3, 33, 47))
    assert logits.shape == (2, 3, 33, 47)
    assert 0 < logits.std() < float("inf")
    trained = [next(net.encoder.parameters()), *(weight for weight in net.decoder.parameters() if weight.requires_grad)]
    gradients = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), trained)
    for gradient in gradients:
        assert gradient.isfinite().all()
    dead = [tuple(gradient.shape) for gradient in gradients if not gradient.any()]
    assert dead == []  # from the first convolution of the encoder to the last layer of the decoder


@pytest.mark.parametrize(("name", "backbone"), REFUSED)
def test_pairs_that_cannot_be_are_refused_in_words(name: str, backbone: str, cheap_model: Build) -> None:
    words = "VGG.* Use vgg16" if name in OVER_VGG else " cannot be dilated.*(50 layers or more|resnet50)"
    with pytest.raises(UserError, match=rf"backbone={backbone}.*{words}"):
        cheap_model(name, backbone)


@pytest.mark.parametrize(("name", "backbone"), SMALL)
def test_32_pixels_are_enough_and_31_are_refused(name: str, backbone: str, cheap_model: Build) -> None:
    net = cheap_model(name, backbone)
    assert net(torch.randn(1, 3, 32, 32)).isfinite().all()
    for size in ((31, 64), (64, 31), (1, 1), (0, 40)):
        with pytest.raises(ValueError, match=f"at least 32x32 pixels; this one is {size[0]}x{size[1]}"):
            net(torch.randn(1, 3, *size))


def test_32_pixels_are_enough_for_a_dilated_network(cheap_model: Build) -> None:
    net = cheap_model("fcn_dilated", "resnet50")
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="31x32"):
        net(torch.randn(1, 3, 31, 32))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "torch.uint8 of shape (1, 3, 40, 40)"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3, 40, 40), "torch.float32 of shape (3, 40, 40)"),
        (torch.zeros(1, 1, 40, 40), "shape (1, 1, 40, 40)"),
        (torch.zeros(1, 4, 40, 40), "shape (1, 4, 40, 40)"),
        (torch.zeros(1, 40, 40, 3), "shape (1, 40, 40, 3)"),
        (torch.zeros(1, 1, 3, 40, 40), "shape (1, 1, 3, 40, 40)"),
    ],
)
def test_other_images_are_refused_in_words(images: Tensor, words: str, cheap_model: Build) -> None:
    with pytest.raises(UserError) as caught:
        cheap_model("fcn32s", "resnet18")(images)
    assert "takes a batch of floats (B, 3, H, W)" in str(caught.value)
    assert words in str(caught.value)


def test_preprocess_refuses_integers(cheap_model: Build) -> None:
    """They would be taken for values in [0, 1]."""
    with pytest.raises(UserError, match=r"floats in \[0, 1\], not torch.uint8. Divide 8-bit images by 255"):
        cheap_model("fcn32s", "resnet18").preprocess(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))


def test_preprocess_is_torchvisions_normalization(cheap_model: Build) -> None:
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    images = torch.rand(2, 3, 35, 40)
    expected = torchvision.transforms.functional.normalize(images, preset.mean, preset.std)
    torch.testing.assert_close(cheap_model("fcn32s", "resnet18").preprocess(images), expected)


def test_state_dict_holds_encoder_decoder_and_input(cheap_model: Build) -> None:
    names = cheap_model("refinenet_2scale", "resnet18").state_dict()
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder", "mean", "std"}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_float32_under_autocast(name: str, cheap_model: Build) -> None:
    net = cheap_model(name, "vgg11" if name in OVER_VGG else "resnet50")
    images = torch.randn(1, 3, 33, 47)
    expected = net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(images)
    assert logits.dtype == torch.float32
    assert (logits - expected).std() < 0.1 * expected.std()
    logits.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), [("fcn8s", {"upsample": "learned"}), ("fcn8s", {}), ("refinenet", {})])
def test_whole_network_in_another_dtype(name: str, options: Any, dtype: torch.dtype, cheap_model: Build) -> None:
    net, images = cheap_model(name, "resnet18", **options), torch.randn(1, 3, 33, 47)
    logits = deepcopy(net).to(dtype)(images.to(dtype))
    assert logits.dtype == torch.promote_types(dtype, torch.float32)
    assert (logits - net(images)).std() < 0.1 * net(images).std()


def symmetric(net: SegmentationModel) -> SegmentationModel:
    """A float64 copy whose kernels look the same after half a turn."""
    net = deepcopy(net).double()
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = (parameter + parameter.flip(-1, -2)).detach() / 2
    return net


SYMMETRIC_SIZES = {
    "vgg11": (64, 96),
    "timm": (64, 96),
    "resnet18": (65, 97),
    "resnet50": (65, 97),
    "deeplab_largefov": (65, 97),
}
# Grids at 1.2 and 0.6 times the size are whole strides too.
TWO_SCALE_SIZES = {"vgg11": (160, 160), "timm": (160, 160), "resnet18": (161, 161), "resnet50": (161, 161)}


UNTURNED = ("segnet", "deconvnet", "deconvnet_slim")
"""A pool takes the first of equal values, which half a turn makes the last."""
TILTED = [(model, "resnet18") for model in MODELS if model.startswith("smp_")]
TILTED += [("smp_deeplabv3plus", "timm"), ("smp_pspnet", "timm")]
"""SMP's decoders take cells to look between pixels, where a ResNet's or a dilated ConvNeXt's do not."""
TURNED = [pair for pair in SMALL if pair[0] not in UNTURNED and pair not in TILTED]


@pytest.mark.parametrize(("name", "backbone"), [*TURNED, ("fcn_dilated", "resnet50")])
def test_scores_fall_on_the_pixels_they_come_from(name: str, backbone: str, cheap_model: Build) -> None:
    """Half a turn of the image turns the logits: any shift between encoder, skips and output would show twice."""
    net = symmetric(cheap_model(name, backbone))
    size = TWO_SCALE_SIZES[backbone] if "2scale" in name else SYMMETRIC_SIZES.get(name, SYMMETRIC_SIZES[backbone])
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        logits, turned = net(images), net(images.flip(-1, -2)).flip(-1, -2)
    assert logits.std() > 1e-6
    assert (logits - turned).abs().max() < 1e-9 * logits.abs().max()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 101)])
def test_two_scales_score_at_the_larger_and_come_back_to_the_image(size: tuple[int, int], cheap_model: Build) -> None:
    net = cheap_model("refinenet_2scale", "resnet18")
    assert isinstance(net.encoder, MultiScaleEncoder)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        scores, logits = net.decoder(net.encoder(images)), net(images)
        larger = [max(32, round(side * 1.2)) for side in size]
        assert scores.shape == (1, 3, *(-(-side // 4) for side in larger))
        expected = F.interpolate(net.decoder.to_pixels(scores, tuple(larger)), size, mode="bilinear")
    assert logits.shape == (1, 3, *size)
    torch.testing.assert_close(logits, expected)


def test_both_encoders_of_two_scales_are_reached() -> None:
    widths = dict.fromkeys((4, 8, 16, 32), 4)
    net = create_model("refinenet_2scale", "resnet18", 3, widths=widths).eval()
    net(torch.randn(1, 3, 33, 47)).square().sum().backward()
    assert all(encoder.conv1.weight.grad.any() for encoder in net.encoder.encoders)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("fcn8s", "resnet18"), ("fcn_dilated", "resnet50"), ("deeplab_largefov", "vgg11"), ("segnet", "vgg11")],
)
def test_decoders_of_one_scale_refuse_several(name: str, backbone: str) -> None:
    model = read_group("model", name) | {"input_scales": [1.0, 0.5]}
    with pytest.raises(UserError, match=rf"model\.input_scales: model={name} takes one scale"):
        build_model(model, read_group("backbone", backbone), 3)


def test_as_many_classes_as_labels_can_hold() -> None:
    with torch.device("meta"):
        assert create_model("fcn32s", "resnet18", 255).num_classes == 255
    with pytest.raises(UserError, match="num_classes=256: at most 255"):
        create_model("fcn32s", "resnet18", 256)


@pytest.mark.parametrize("scales", [[1.2, 1.2], [0.0], [1.0, -0.5]])
def test_scales_that_cannot_be_are_refused_in_words(scales: list[float]) -> None:
    encoders = nn.ModuleList(ResNetEncoder("resnet18") for _ in scales)
    with pytest.raises(UserError, match=r"model.input_scales=.* must be different positive numbers"):
        MultiScaleEncoder(encoders, scales)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught, torch.device("meta"):
        create_model(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "backbone", "options", "words"),
    [
        ("fcn8", "vgg16", {}, "There is no model 'fcn8'. Did you mean 'fcn8s'"),
        ("refine-net", "vgg16", {}, "Did you mean 'refinenet'"),
        ("swin", "vgg16", {}, "There is no model 'swin'. Known: "),
        ("", "vgg16", {}, "There is no model ''. Known: "),
        ("../backbone/vgg16", "vgg16", {}, "There is no model '../backbone/vgg16'."),
        ("fcn8s", "resnet5O", {}, "There is no backbone 'resnet5O'. Did you mean 'resnet50'"),
        ("fcn8s", "mobilenet", {}, "There is no backbone 'mobilenet'. Known: resnet101, "),
        ("fcn8s", "vgg16", {"upsampel": "fixed"}, "fcn8s over vgg16 has no option 'upsampel'. Did you mean 'upsample'"),
        ("fcn8s", "vgg16", {"crp_links": 2}, "fcn8s over vgg16 has no option 'crp_links'."),
        ("refinenet", "vgg16", {"upsample": "fixed"}, "refinenet over vgg16 has no option 'upsample'."),
        ("fcn8s", "resnet18", {"classifier_channels": 64}, "has no option 'classifier_channels'."),
        ("fcn8s", "vgg16", {"_target_": "os.system"}, "has no option '_target_'."),
        ("fcn8s", "vgg16", {"needs": ()}, "has no option 'needs'."),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, backbone: str, options: Any, words: str) -> None:
    assert words in refusal(name, backbone, 3, **options)


@pytest.mark.parametrize("number", [0, -1, 2.0, "21", None])
def test_number_of_classes_is_checked(number: Any) -> None:
    assert f"num_classes must be a whole number of at least 1, not {number!r}" in refusal("fcn8s", "resnet18", number)


def test_one_class_works(cheap_model: Build) -> None:
    assert cheap_model("refinenet", "resnet18", num_classes=1)(torch.randn(1, 3, 32, 40)).shape == (1, 1, 32, 40)


@pytest.mark.parametrize(
    ("model", "backbone", "words"),
    [
        ({"crp_link": 2}, {}, "model=refinenet has no option 'crp_link'. Did you mean 'crp_links'"),
        ({}, {"weight": None}, "backbone=resnet18 has no option 'weight'. Did you mean 'weights'"),
        ({}, {"needs": ()}, "backbone=resnet18 has no option 'needs'"),
    ],
)
def test_contents_of_config_files_are_checked(model: dict[str, Any], backbone: dict[str, Any], words: str) -> None:
    model = read_group("model", "refinenet") | model
    with pytest.raises(UserError) as caught:
        build_model(model, {"name": "resnet18"} | backbone, 3)
    assert words in str(caught.value)


def test_missing_options_are_named() -> None:
    model = {key: value for key, value in read_group("model", "refinenet").items() if key not in ("widths", "cascade")}
    with pytest.raises(UserError, match="model=refinenet lacks the options cascade, widths"):
        build_model(model, {"name": "resnet18"}, 3)


def test_options_reach_decoder_and_encoder_and_the_files_are_read_anew() -> None:
    with torch.device("meta"):
        net = create_model("fcn8s", "vgg11", 3, upsample="interpolate", skips=[32, 8], classifier_channels=7)
        plain = create_model("fcn8s", "vgg11", 3)
    assert (net.encoder.channels[32], set(net.decoder.score)) == (7, {"32", "8"})
    assert (plain.encoder.channels[32], set(plain.decoder.score)) == (4096, {"32", "16", "8"})


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("fcn8s", "vgg11"), ("refinenet_lw", "resnet18"), pytest.param("fcn8s", "timm", marks=pytest.mark.slow)],
)
def test_torch_compile_makes_one_graph_for_all_sizes(name: str, backbone: str, cheap_model: Build) -> None:
    net = cheap_model(name, backbone).eval()
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=True)  # raises where a graph would break
    with torch.no_grad():
        for size in ((64, 96), (97, 75), (128, 128)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(images), net(images))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("size", [(40, 32), (33, 47), (61, 40)])
@pytest.mark.parametrize("scale", [1.2, 0.75])
@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("fcn8s", "resnet18", {}),
        ("fcn16s", "vgg11", {"geometry": "caffe"}),
        ("fcn_dilated", "resnet50", {}),
        ("refinenet", "resnet18", {}),
        ("refinenet_single", "vgg11", {}),
    ],
)
def test_a_scale_of_the_input_is_the_image_resized_by_hand_before_and_after(
    name: str, backbone: str, options: Any, scale: float, size: tuple[int, int], cheap_model: Build
) -> None:
    plain = deepcopy(cheap_model(name, backbone, **options))
    scaled = cheap_model(name, backbone, input_scale=scale, **options)
    scaled.load_state_dict(plain.state_dict())  # under the same names
    images = torch.randn(2, 3, *size)
    sides = [max(32, math.floor(side * scale + 0.5)) for side in size]
    with torch.no_grad():
        logits = plain(torchvision.transforms.functional.resize(images, sides, antialias=scale < 1))
        expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        found = scaled(images)
        torch.testing.assert_close(found, expected)
        assert found.shape[-2:] == size
        assert (found - plain(images)).abs().max() > 1e-3


def test_a_single_entry_of_input_scales_is_the_input_scale(cheap_model: Build) -> None:
    images, widths = torch.randn(1, 3, 33, 47), dict.fromkeys((4, 8, 16, 32), 4)
    net = deepcopy(cheap_model("refinenet", "resnet18", widths=widths, input_scale=1.2))
    listed = cheap_model("refinenet_2scale", "resnet18", widths=widths, input_scales=[1.2])
    listed.load_state_dict(net.state_dict())
    assert torch.equal(listed(images), net(images))


def test_the_scale_of_one_encoder_leaves_two_as_they_are(cheap_model: Build) -> None:
    """So a recipe can set it for every network."""
    net = cheap_model("refinenet_2scale", "resnet18", input_scale=1.5)
    assert net.encoder.scales == [1.2, 0.6]


def test_a_config_from_before_the_options_builds_the_same_network() -> None:
    """Two encoders under the names that checkpoints of refinenet_2scale have."""
    now = read_group("model", "refinenet_2scale")
    before = {key: value for key, value in now.items() if key not in ("input_scale", "init", "context", "crf")}
    assert before["input_scales"] == [1.2, 0.6]
    with torch.device("meta"):
        nets = [build_model(model, read_group("backbone", "resnet18"), 3) for model in (now, before)]
    assert list(nets[0].state_dict()) == list(nets[1].state_dict())
    assert {name.split(".")[2] for name in nets[1].encoder.state_dict(prefix="e.")} == {"0", "1"}
    assert nets[1].encoder.scale == 1.2
