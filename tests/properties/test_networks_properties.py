"""Every network over all sizes: over small encoders by value, over the real ones by size and words of refusal."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    FCNS,
    UPSAMPLINGS,
    VARIANTS,
    class_numbers,
    examples,
    laid_out,
    layouts,
    seeds,
    sizes,
    small_network,
    variants,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel

pytestmark = pytest.mark.usefixtures("one_thread")

Variant = tuple[str, str, dict[str, Any]]
image_sizes = sizes(32, 97)
batches = st.integers(1, 3)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """To a fraction of the largest value: float32 sums in another order."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@examples(0.5)
@given(seed=seeds, variant=variants, size=image_sizes, batch=batches, classes=class_numbers, layout=layouts)
def test_images_are_seen_alone_and_in_any_order_in_memory(
    seed: int, variant: Variant, size: tuple[int, int], batch: int, classes: int, layout: str
) -> None:
    name, like, options = variant
    net = small_network(seed, name, like, classes, **options)
    images = torch.randn(batch, 3, *size)
    with torch.no_grad():
        logits = net(laid_out(images, layout))
        assert (logits.shape, logits.dtype) == ((batch, classes, *size), torch.float32)
        assert logits.isfinite().all()
        for number in range(batch):
            close(net(images[number : number + 1])[0], logits[number])
        if net.has_rows:
            top = seed % size[0]
            rows = net.rows(net(images, upsampled=False), size[1], top, size[0])
            close(rows, logits[:, :, top:], 1e-4 * float(logits.abs().max() / logits[:, :, top:].abs().max()))


@examples(0.5)
@given(seed=seeds, variant=variants, size=image_sizes, batch=batches, classes=class_numbers)
def test_gradients_reach_the_image_and_every_parameter(
    seed: int, variant: Variant, size: tuple[int, int], batch: int, classes: int
) -> None:
    name, like, options = variant
    net = small_network(seed, name, like, classes, **options)
    may_be_dead = name not in FCNS  # all units of a layer at once, as narrow as they are here, over a cell or two
    images = torch.randn(batch, 3, *size, requires_grad=True)
    logits = net(images)
    (logits * torch.randn_like(logits)).sum().backward()
    for parameter_name, parameter in net.decoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any() or may_be_dead, parameter_name
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.flatten(1).any(1).all() or may_be_dead


@examples(0.5)
@given(seed=seeds, variant=variants, size=image_sizes, classes=class_numbers)
def test_autocast_gives_finite_float32_near_the_exact(
    seed: int, variant: Variant, size: tuple[int, int], classes: int
) -> None:
    name, like, options = variant
    net = small_network(seed, name, like, classes, **options)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = net(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(images)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= 0.5 * (1 + expected.abs().max())


@examples(0.5)
@given(
    seed=seeds,
    name=st.sampled_from([*FCNS, "fcn_dilated"]),
    like=st.sampled_from(["vgg", "resnet"]),
    kind=st.sampled_from(UPSAMPLINGS),
    shift=st.integers(1, 3),
    across=st.integers(32, 70),
    downwards=st.booleans(),
)
def test_shifting_the_image_by_cells_shifts_fcns_scores(
    seed: int, name: str, like: str, kind: str, shift: int, across: int, downwards: bool
) -> None:
    """On either axis, away from the borders by what the network sees."""
    if name == "fcn_dilated":
        like, kind = "resnet", "interpolate"
    net = small_network(seed, name, like, 3, upsample=kind).double()
    images = torch.randn(1, 3, across, 512 + 32 * shift, dtype=torch.float64)
    with torch.no_grad():
        pair = [net(view.mT if downwards else view) for view in (images, images[..., 32 * shift :])]
    whole, shifted = (logits.mT if downwards else logits for logits in pair)
    middle = slice(192, 320)
    assert (shifted[..., middle] - whole[..., 32 * shift :][..., middle]).abs().max() <= 1e-10 * whole.abs().max()


@examples(0.5)
@given(
    seed=seeds,
    variant=st.sampled_from([one for one in VARIANTS if one[0] != "refinenet_2scale" and one[1] != "caffe"]),
    cells=sizes(1, 3),
    axes=st.sampled_from([(-1,), (-2,), (-2, -1)]),
)
def test_mirroring_image_and_kernels_mirrors_the_scores(
    seed: int, variant: Variant, cells: tuple[int, int], axes: tuple[int, ...]
) -> None:
    """On grids that are their own mirror images: any shift between encoder, skips and output would show twice."""
    name, like, options = variant
    assume(options.get("upsample") != "resize")  # which takes cells to look elsewhere
    net = small_network(seed, name, like, 3, **options).double()
    size = [32 * count + (like == "resnet") for count in cells]
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        logits = net(images)
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(axes))
        mirrored = net(images.flip(axes)).flip(axes)
    assert (logits - mirrored).abs().max() <= 1e-10 * logits.abs().max()


REAL = [
    *((name, backbone, {}) for name in FCNS for backbone in ("vgg11", "vgg16_bn", "resnet18", "resnet50")),
    *((name, "vgg11", {"geometry": "caffe"}) for name in FCNS),
    *((name, backbone, {}) for name in ("refinenet", "refinenet_2scale") for backbone in ("vgg13", "resnet34")),
    ("refinenet_single", "resnet101", {}),
    ("refinenet_2cascade", "vgg19", {}),
    ("fcn_dilated", "resnet50", {}),
    ("fcn8s", "resnet18", {"context": True}),
    ("deeplab_largefov", "vgg16", {}),
    *(("segnet", backbone, {}) for backbone in ("vgg11", "vgg16_bn")),
    ("deconvnet", "vgg13", {"fc_channels": 8}),
    *(("fcn8s", "timm", {"timm_name": name}) for name in ("test_convnext", "test_resnet")),
    *((f"smp_{name}", "vgg11", {}) for name in ("fpn", "unet", "deeplabv3plus", "segformer")),
    *((f"smp_{name}", "resnet18", {}) for name in ("unetplusplus", "pspnet", "upernet")),
]


SIZES_ALONE = FakeTensorMode()


@cache
def real_network(number: int) -> SegmentationModel:
    name, backbone, options = REAL[number]
    narrow = {"classifier_channels": 8} if "vgg" in backbone else {}
    return create_model(name, backbone, 5, **options, **narrow).eval()


@examples(0.1)
@given(number=st.sampled_from(range(len(REAL))), size=sizes(32, 97) | sizes(32, 2000), batch=batches)
def test_real_networks_give_logits_of_the_images_size(number: int, size: tuple[int, int], batch: int) -> None:
    """By the sizes alone, which costs no computation."""
    with SIZES_ALONE:
        net, images = real_network(number), torch.empty(batch, 3, *size)
        scores = net(images, upsampled=False)
        assert net.upsample(scores, size).shape == (batch, 5, *size)
        if net.has_rows:
            for top, bottom in ((0, 1), (size[0] // 2, size[0] // 2 + 3), (size[0] - 1, size[0])):
                assert net.rows(scores, size[1], top, bottom).shape == (batch, 5, bottom - top, size[1])


@pytest.fixture(scope="module")
def network() -> SegmentationModel:
    return small_network(0, "fcn8s", "resnet", 2)


@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 4, 31, 32, 40]), max_size=5)
    | st.tuples(st.integers(0, 2), st.integers(2, 4), st.integers(30, 34), st.integers(30, 34)).map(list),
    dtype=st.sampled_from([torch.float32, torch.uint8, torch.int64, torch.bool, torch.int8, torch.complex64]),
)
def test_other_images_are_refused_in_words(shape: list[int], dtype: torch.dtype, network: SegmentationModel) -> None:
    images = torch.zeros(shape, dtype=dtype)
    if dtype == torch.float32 and len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= 32:
        assert network(images).shape == (shape[0], 2, *shape[2:])
    else:
        with pytest.raises(UserError, match=r"takes a batch of floats|at least 32x32"):
            network(images)


@examples(0.5)
@given(seed=seeds, variant=variants, size=image_sizes)
def test_what_is_not_finite_stays_with_its_image(seed: int, variant: Variant, size: tuple[int, int]) -> None:
    """NaN in one image of a batch is seen in its logits, and not in the others'."""
    name, like, options = variant
    net = small_network(seed, name, like, 3, **options)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        clean = net(images)
        images[0] = torch.nan
        logits = net(images)
    assert logits[0].isnan().any()
    close(logits[1], clean[1])
