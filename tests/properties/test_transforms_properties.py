"""Crop, scale, flip and padding over all sizes: image and label stay one picture, and nothing is made up."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import make
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_labels, seeds, sizes
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.core.labels import VOID
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.transforms import PAD_COLOR, Augmentation, TrainTransform

pytestmark = pytest.mark.usefixtures("one_thread")

scales = st.floats(0.3, 3) | st.floats(0.001, 1000)
crop_sizes = sizes(1, 60) | sizes(1, 300)
flips = st.booleans()


def transformed(
    seed: int, image: Tensor, label: Tensor, size: tuple[int, int] | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """What training makes of an example; one seed makes the same draws."""
    torch.manual_seed(seed)
    return TrainTransform(size, Augmentation(**options))(image, label)


def coordinates(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Each pixel's row and column, as uint8, so of at most 255 pixels a side: below void."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.uint8) for side in size), indexing="ij")
    return rows, columns


def filled(out: int, have: int, scale: float) -> int:
    """How many pixels of a crop's side the source fills."""
    return out if round(out / scale) <= have else min(max(round(have * scale), 1), out)


def mirrored(label: Tensor, width: int) -> bool:
    """Whether void lies on the left, where it comes by mirroring alone; unknown, so False, where nothing is padded."""
    return bool((label[:, :-width] == VOID).all()) and width < label.shape[1]


@given(seed=seeds, source=sizes(1, 255), size=crop_sizes, scale=scales, flip=flips, class_sampled=st.booleans())
def test_image_and_label_show_the_same_places(
    seed: int, source: tuple[int, int], size: tuple[int, int], scale: float, flip: bool, class_sampled: bool
) -> None:
    """A pixel of the image holds the row and the column that it shows, and so does the label."""
    rows, columns = coordinates(source)
    image = torch.stack([rows, columns, rows])
    options = {"scale": (scale, scale), "flip": flip, "class_sampled": class_sampled}
    # The label is the row, then, by the same draws, the column; class-sampled, the draws depend on what it holds.
    for axis, label in enumerate((rows, columns)):
        shown, found = transformed(seed, image, label, size, **options)
        inside = found != VOID
        extent = filled(size[0], source[0], scale), filled(size[1], source[1], scale)
        assert inside.sum() == extent[0] * extent[1]
        left = size[1] - extent[1] if mirrored(found, extent[1]) else 0
        assert inside[: extent[0], left : left + extent[1]].all()
        padding = torch.tensor(PAD_COLOR, dtype=torch.uint8)[:, None]
        assert (shown[:, ~inside] == padding).all()

        places, labels = (
            array[: extent[0], left : left + extent[1]].double().movedim(axis, 0).flatten(1)
            for array in (shown[axis], found)
        )
        assert (labels == labels[:, :1]).all()
        # Half a pixel by rounding of either. Where the window ends, smoothing has less to look at on that side, and
        # shifts by up to a third of what one pixel of the crop holds.
        step = max(min(round(size[axis] / scale), source[axis]), 1) / extent[axis]
        slack = torch.full((len(labels), 1), 1.01)
        slack[[0, -1]] += max(step, 1) / 2
        slack[[min(1, len(slack) - 1), max(-2, -len(slack))]] += max(step, 1) / 2
        assert ((places - labels).abs() <= slack).all()


@given(
    seed=seeds,
    source=sizes(1, 60) | sizes(1, 400),
    size=crop_sizes,
    ends=st.tuples(scales, scales).map(sorted),
    classes=st.integers(1, 255),
    void=st.sampled_from([0.0, 0.3, 1.0]),
    flip=flips,
    jitter=st.sampled_from([0.0, 0.4, 1.0]),
    class_sampled=st.booleans(),
    photograph=st.booleans(),
)
def test_sizes_types_and_values(
    seed: int,
    source: tuple[int, int],
    size: tuple[int, int],
    ends: list[float],
    classes: int,
    void: float,
    flip: bool,
    jitter: float,
    class_sampled: bool,
    photograph: bool,
) -> None:
    """Every label was there before; and the order of the source in memory, a photograph's or not, changes nothing."""
    label = torch.from_numpy(random_labels(seed, source, classes, void))
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *source), np.uint8))
    before = image.clone(), label.clone()
    options = {"scale": ends, "flip": flip, "jitter": jitter, "class_sampled": class_sampled}
    shown, found = transformed(seed, image, label, size, **options)
    assert (shown.shape, shown.dtype) == ((3, *size), torch.uint8)
    assert (found.shape, found.dtype) == (size, torch.uint8)
    assert {*found.unique().tolist()} <= {*label.unique().tolist(), VOID}
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    if photograph:
        image, label = image.permute(1, 2, 0).contiguous().permute(2, 0, 1), label.mT.contiguous().mT
    again = transformed(seed, image, label, size, **options)
    assert torch.equal(again[0], shown)
    assert torch.equal(again[1], found)


@given(seed=seeds, source=sizes(1, 100), size=sizes(1, 60), scale=scales, flip=flips, color=st.integers(0, 255))
def test_a_plain_color_stays_that_color(
    seed: int, source: tuple[int, int], size: tuple[int, int], scale: float, flip: bool, color: int
) -> None:
    """However little or much is averaged, and up to the borders."""
    image, label = torch.full((3, *source), color, dtype=torch.uint8), torch.zeros(source, dtype=torch.uint8)
    shown, found = transformed(seed, image, label, size, scale=(scale, scale), flip=flip)
    assert (shown[:, found == 0] == color).all()


@given(seed=seeds, source=sizes(1, 80), size=sizes(1, 60), scale=st.floats(1, 20), share=st.floats(0, 0.2))
def test_class_sampled_crop_holds_the_class(
    seed: int, source: tuple[int, int], size: tuple[int, int], scale: float, share: float
) -> None:
    """Which is the only one in the image, on few pixels and at least one. (An image made smaller may lose a pixel.)"""
    rng = np.random.default_rng(seed)
    label = np.where(rng.random(source) < share, 7, VOID).astype(np.uint8)
    label[rng.integers(source[0]), rng.integers(source[1])] = 7
    image = torch.zeros(3, *source, dtype=torch.uint8)
    found = transformed(seed, image, torch.from_numpy(label), size, scale=(scale, scale), class_sampled=True)[1]
    assert (found == 7).any()


@given(seed=seeds, source=sizes(1, 50), classes=st.integers(1, 255), flip=flips)
def test_without_a_crop_the_image_is_kept_or_mirrored(
    seed: int, source: tuple[int, int], classes: int, flip: bool
) -> None:
    label = torch.from_numpy(random_labels(seed, source, classes, 0.1))
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *source), np.uint8))
    pair = transformed(seed, image, label, None, flip=flip)
    as_it_is = [torch.equal(*both) for both in zip(pair, (image, label), strict=True)]
    turned = [torch.equal(*both) for both in zip(pair, (image.flip(-1), label.flip(-1)), strict=True)]
    assert all(as_it_is) or (flip and all(turned))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(option=st.sampled_from(["crop_size", "scale", "jitter"]), value=anything)
def test_options_are_usable_or_refused_in_words(option: str, value: Any) -> None:
    """Never another error, neither at once nor when an image comes."""
    image, label = torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8)
    try:
        given_options = {option: value} if option == "crop_size" else {"crop_size": 5, "augment": {option: value}}
        transform = make(ShapesDataModule, **given_options).train_transform
    except UserError as error:
        assert f"{option}={value}" in str(error)  # noqa: PT017
        return
    if transform.crop_size is None or max(transform.crop_size) < 1000:
        assert transform(image, label)[1].dtype == torch.uint8
