"""The fully connected CRF against sums over all pairs of cells, one by one, in float64."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segrefine.core.errors import UserError
from segrefine.core.options import CRFOptions
from segrefine.models import crf
from segrefine.models.build import create_model
from segrefine.models.logits import Logits
from segrefine.models.tta import TestTimeAugmentation

pytestmark = pytest.mark.usefixtures("narrow", "one_thread")

WIDE = CRFOptions(theta_alpha=9.0, theta_beta=40.0)
"""Kernels so wide that in an image of a few cells each of them counts."""


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(0))
    return powers / powers.sum(0)


class Slow:
    """One image as lists of cells and pixels, each with a middle (2,) and a color (C,)."""

    def __init__(self, colors: np.ndarray, options: CRFOptions) -> None:
        self.options, (_, height, width), stride = options, colors.shape, options.stride
        rows, columns = (np.array_split(range(n), range(stride, n, stride)) for n in (height, width))
        self.members = [[(y, x) for y in row for x in column] for row in rows for column in columns]
        self.cells = [(np.mean(places, 0), self.average(colors, places)) for places in self.members]
        self.pixels = [(np.array(place), colors[(slice(None), *place)]) for place in np.ndindex(height, width)]

    @staticmethod
    def average(maps: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
        return np.mean([maps[:, y, x] for y, x in places], 0)

    def messages(
        self, points: list[Any], classes: np.ndarray, spatial: np.ndarray, bilateral: np.ndarray
    ) -> np.ndarray:
        """What the classes (K, N) of the cells say to the points, (K, M), with a (K, K) matrix for each kernel."""
        found, options = [], self.options
        for place, color in points:
            total = np.zeros(len(classes))
            weights = np.array(
                [
                    [
                        np.exp(-((place - other) ** 2).sum() / (2 * options.theta_gamma**2)),
                        np.exp(
                            -((place - other) ** 2).sum() / (2 * options.theta_alpha**2)
                            - ((color - shade) ** 2).sum() / (2 * options.theta_beta**2)
                        ),
                    ]
                    for other, shade in self.cells
                ]
            )
            for matrix, kernel in zip((spatial, bilateral), weights.T, strict=True):
                total += matrix @ sum(weight * q for weight, q in zip(kernel, classes.T, strict=True)) / kernel.sum()
            found.append(total)
        return np.array(found).T

    def refine(self, logits: np.ndarray, steps: int, spatial: np.ndarray, bilateral: np.ndarray) -> np.ndarray:
        """Logits (K, H, W) -> class probabilities (K, H, W)."""
        whole = softmax(logits)
        cells = np.log([self.average(whole, places) for places in self.members]).T
        current = cells
        for _ in range(steps - 1):
            current = cells + self.messages(self.cells, softmax(current), spatial, bilateral)
        ours = np.log(whole).reshape(len(whole), -1)
        return softmax(ours + self.messages(self.pixels, softmax(current), spatial, bilateral)).reshape(whole.shape)


def example(classes: int, size: tuple[int, int], batch: int = 1, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    logits = spread * torch.randn(batch, classes, *size, dtype=torch.float64)
    return logits, 255 * torch.rand(batch, 3, *size, dtype=torch.float64)


SIZES = [
    # (K, (H, W), stride)
    (3, (7, 9), 1),
    (4, (13, 18), 4),
    (2, (1, 5), 4),
    (1, (9, 2), 2),
    (5, (1, 1), 4),
    (3, (10, 6), 16),
]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("classes", "size", "stride"), SIZES)
def test_refined_classes_are_those_of_sums_over_all_pairs(
    classes: int, size: tuple[int, int], stride: int, dtype: torch.dtype, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the Potts model: each of the other classes that a neighbor has takes from a class. Of two images each by
    itself; kernels kept, and in blocks of a few points."""
    if not kept:
        monkeypatch.setattr(crf, "KEPT", 0)
        monkeypatch.setattr(crf, "BLOCK", 100)
    logits, colors = example(classes, size, batch=2)
    for steps in (1, 4):
        options = replace(WIDE, stride=stride, steps=steps)
        found = crf.refine(logits.to(dtype), colors.to(dtype), options)
        assert (found.dtype, found.shape) == (dtype, logits.shape)
        others = np.eye(classes) - 1
        for image in range(2):
            slow = Slow(colors[image].numpy(), options)
            matrices = options.spatial_weight * others, options.bilateral_weight * others
            expected = slow.refine(logits[image].numpy(), steps, *matrices)
            tolerance = 1e-12 if dtype == torch.float64 else 1e-4
            np.testing.assert_allclose(found[image].softmax(0).double().numpy(), expected, atol=tolerance)


@pytest.mark.parametrize("training", [False, True])
def test_no_more_than_a_block_of_a_kernel_exists(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of 240 x 240 and 960 x 240, in an image of 960 pixels."""
    monkeypatch.setattr(crf, "KEPT", 1000)
    monkeypatch.setattr(crf, "BLOCK", 3000)
    sizes = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **kwargs or {})
            sizes.append(found.numel() if isinstance(found, Tensor) else 0)
            return found

    logits, colors = example(2, (30, 32))
    with Record():
        refined = crf.refine(logits.requires_grad_(training), colors, replace(WIDE, stride=2))
        if training:
            refined.square().sum().backward()
    assert max(sizes) <= max(3000, 7 * logits[0, 0].numel())  # the features of the pixels


def test_edges_follow_colors_also_inside_a_cell() -> None:
    """A weak guess for one class left of an edge in column 6, which lies inside a cell of 4 x 4."""
    colors = torch.zeros(1, 3, 16, 16)
    colors[..., 6:] = 200
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 0, :, :4] = logits[:, 1, :, 9:] = 1  # columns 4 to 8 are undecided
    refined = crf.refine(logits, colors, CRFOptions()).argmax(1)
    assert torch.equal(refined[0], (torch.arange(16) >= 6).long().expand(16, 16))


def test_a_pixel_unlike_all_others_and_certain_scores_stay_finite() -> None:
    """Where every weight of a kernel is below the smallest number of float32, and where a probability is 0."""
    logits, colors = torch.zeros(1, 2, 9, 9), torch.zeros(1, 3, 9, 9)
    colors[0, :, 4, 4] = 255
    logits[:, 0], logits[0, 0, 4, 4] = 1e4, -1e4
    refined = crf.refine(logits, colors, CRFOptions())
    assert refined.isfinite().all()
    assert refined.argmax(1).sum() == 1
    certain = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).expand(1, 2, 33, 32)
    mean = TestTimeAugmentation(lambda images: certain, flip=True, refine=lambda scores, images: scores)
    assert mean(torch.zeros(1, 3, 33, 32)).isfinite().all()


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    logits, colors = (each.bfloat16() for each in example(3, (9, 11)))
    expected = crf.refine(logits.float(), colors.float(), WIDE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf.refine(logits, colors, WIDE), expected)


def test_the_averaged_probabilities_of_all_views_are_refined() -> None:
    weights = torch.linspace(-1, 1, 12).view(4, 3, 1, 1)
    seen = []

    def net(images: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(images, weights) + 0.1 * torch.arange(images.shape[-1])

    def refine(logits: Tensor, images: Tensor) -> Tensor:
        seen.append((logits, images))
        return -logits

    images = torch.randn(2, 3, 41, 52)
    for options in ({}, {"window": 32}, {"scales": [0.9, 1.2], "flip": True}):
        average = TestTimeAugmentation(net, **options)(images)
        found = TestTimeAugmentation(net, **options, refine=refine).classes(images)
        logits, given = seen.pop()
        torch.testing.assert_close(logits.softmax(1), average.softmax(1) if not options else average)
        assert given is images
        assert torch.equal(found, average.argmin(1).to(torch.uint8))


def test_colors_are_those_that_were_prepared() -> None:
    net = create_model("fcn32s", "resnet18", 2, crf=True)
    net.mean, net.std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.full((3, 1, 1), 1 / 255)
    images = torch.rand(2, 3, 33, 40)
    torch.testing.assert_close(net.colors(net.preprocess(images)), 255 * images)


@pytest.mark.parametrize(("given", "message"), [({"steps": 5}, "crf.steps=5"), ({"theta_beta": 1.0}, "crf.theta_beta")])
def test_options_without_post_crf_and_images_that_are_too_large_are_refused(
    given: dict[str, Any], message: str
) -> None:
    net = create_model("fcn32s", "resnet18", 2)
    with pytest.raises(UserError, match=rf"{message}.*has no effect without post=crf"):
        crf.create_refinement(net, None, given)
    assert crf.create_refinement(net, None, vars(CRFOptions())) is None
    refine = crf.create_refinement(net, "crf", {})
    assert refine is not None
    with pytest.raises(UserError, match=r"At crf\.stride=4, 1500 x 1500 pixels are too many\. Give crf\.stride=5"):
        refine(torch.zeros(1, 1, 1, 1).expand(1, 2, 1500, 1500), torch.zeros(1, 3, 1500, 1500))


# The layer


@pytest.mark.parametrize("training", [True, False])
def test_the_layer_mixes_classes_with_trained_weights(training: bool) -> None:
    """Five steps in training, ten otherwise."""
    layer = crf.CRFLayer(3).double().train(training)
    layer.options = WIDE
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    logits, colors = example(3, (9, 13))
    spatial, bilateral, mix = (
        each.detach().numpy() for each in (layer.spatial_weights, layer.bilateral_weights, layer.compatibility)
    )
    slow = Slow(colors[0].numpy(), WIDE)
    expected = slow.refine(logits[0].numpy(), 5 if training else 10, -mix @ spatial, -mix @ bilateral)
    np.testing.assert_allclose(layer(logits, colors)[0].softmax(0).detach().numpy(), expected, atol=1e-10)


def test_the_layer_starts_as_the_crf_that_is_not_trained() -> None:
    logits, colors = example(4, (14, 17))
    torch.testing.assert_close(crf.CRFLayer(4).eval()(logits, colors), crf.refine(logits, colors, CRFOptions()))


@pytest.mark.parametrize("kept", [True, False])
def test_gradients_are_those_of_finite_differences(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(crf, "KEPT", 0)
        monkeypatch.setattr(crf, "BLOCK", 60)
    layer = crf.CRFLayer(2).double()
    layer.options = replace(WIDE, stride=2)
    logits, colors = example(2, (5, 6), batch=2)
    weights = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def run(logits: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (logits, colors))

    assert torch.autograd.gradcheck(run, (logits.requires_grad_(), *weights), fast_mode=True)


Build = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("fcn8s", "resnet18", {}),
        ("fcn16s", "vgg11", {"geometry": "caffe"}),
        ("refinenet", "vgg11", {"input_scale": 1.2}),
        ("segnet", "vgg11", {}),
        ("fcn_dilated", "resnet50", {}),
    ],
)
def test_any_network_ends_in_it(name: str, backbone: str, options: dict[str, Any], cheap_model: Build) -> None:
    """After the upsampling; loss and views see what it returns, and all of its weights are trained."""
    plain = deepcopy(cheap_model(name, backbone, **options))
    net = cheap_model(name, backbone, crf=True, **options)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert (len(missing), unexpected) == (3, [])
    images, labels = torch.randn(2, 3, 45, 52), torch.randint(3, (2, 45, 52))
    with torch.no_grad():
        expected = crf.refine(plain(images), net.colors(images), CRFOptions())
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net(images, upsampled=False), plain(images, upsampled=False))
        assert torch.equal(TestTimeAugmentation(net).classes(images), net(images).argmax(1).to(torch.uint8))
    Logits(net.train(), images).loss(labels).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.decoder.crf.parameters())
