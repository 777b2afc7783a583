import math

import numpy as np
import pytest
import torch
from builders import make
from PIL import Image
from torch import Tensor

from segrefine.core.errors import UserError
from segrefine.data import transforms
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.transforms import (
    PAD_COLOR,
    Augmentation,
    TrainTransform,
    color_jitter,
    pad,
    parse_crop_size,
    random_crop,
    resize,
)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """An image of odd size whose red channel is its label, so that a step which moves one without the other shows."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 9, (37, 53), generator=generator, dtype=torch.uint8)
    return torch.stack([label, 2 * label, 3 * label]), label


def follows(image: Tensor, label: Tensor) -> bool:
    inside = label != 255
    return torch.equal(image[0][inside], label[inside]) and torch.equal(image[2][inside], 3 * label[inside])


@pytest.mark.parametrize("size", [(16, 20), (37, 53), (1, 1), (36, 7)])
@pytest.mark.parametrize("class_sampled", [False, True])
def test_crop_without_scale_is_a_window_of_the_source(
    pair: tuple[Tensor, Tensor], size: tuple[int, int], class_sampled: bool
) -> None:
    torch.manual_seed(1)
    image, label = random_crop(*pair, size, 1.0, class_sampled)
    windows = pair[1].unfold(0, size[0], 1).unfold(1, size[1], 1)
    assert (windows == label).all(-1).all(-1).any()
    assert follows(image, label)


def test_crops_reach_every_place_evenly() -> None:
    torch.manual_seed(0)
    label = torch.arange(6, dtype=torch.uint8).expand(5, 6)
    starts = [int(random_crop(label.expand(3, 5, 6), label, (5, 3), 1.0)[1][0, 0]) for _ in range(800)]
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 0.75)


@pytest.mark.parametrize(
    ("size", "scale", "start"), [((20, 30), 2.0, (4, 6)), ((9, 12), 0.5, (4, 6)), ((10, 10), 1 / 3, (6, 9))]
)
def test_crop_then_resize_equals_resize_then_crop(
    size: tuple[int, int], scale: float, start: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a window on whole pixels of the resized image both orders give the same, but for the image's border, where a
    resized crop cannot look beyond its window."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, 60, 90), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, 9, (60, 90), generator=generator, dtype=torch.uint8)
    starts = iter(start)
    monkeypatch.setattr(transforms, "_random_below", lambda end: next(starts))
    crop, crop_label = random_crop(image, label, size, scale)
    whole, whole_label = resize(image, label, (round(60 * scale), round(90 * scale)))
    top, left = round(start[0] * scale), round(start[1] * scale)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    assert torch.equal(crop_label, whole_label[rows, columns])
    difference = crop.int() - whole[:, rows, columns].int()
    assert difference[:, 3:-3, 3:-3].abs().max() <= 1


@pytest.mark.parametrize("size", [(74, 106), (20, 31), (37, 11)])
def test_resize_agrees_with_pillow(pair: tuple[Tensor, Tensor], size: tuple[int, int]) -> None:
    height, width = size
    image, label = resize(*pair, size)
    source = pair[0].permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR))
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    nearest = np.asarray(Image.fromarray(pair[1].numpy()).resize((width, height), Image.Resampling.NEAREST))
    assert (label.numpy() == nearest).mean() > 0.99


def test_small_image_is_padded_with_void(pair: tuple[Tensor, Tensor]) -> None:
    image, label = random_crop(*pair, (50, 40), 1.0)
    assert label.shape == (50, 40)
    assert image.shape == (3, 50, 40)
    assert (label[37:] == 255).all()
    assert (label[:37] != 255).all()
    assert (image[:, 37:] == torch.tensor(PAD_COLOR)[:, None, None]).all()
    assert follows(image, label)


def test_small_image_keeps_the_scale_it_was_given(pair: tuple[Tensor, Tensor]) -> None:
    label = random_crop(*pair, (200, 200), 2.0)[1]
    rows, columns = (label != 255).nonzero().max(dim=0).values + 1
    assert (rows, columns) == (74, 106)


def test_the_least_scale_leaves_a_pixel(pair: tuple[Tensor, Tensor]) -> None:
    assert (random_crop(*pair, (5, 5), 5e-324)[1] != 255).sum() == 1


def test_pad_leaves_full_images_alone(pair: tuple[Tensor, Tensor]) -> None:
    assert pad(*pair, (37, 53))[0] is pair[0]


def test_flip_turns_both() -> None:
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    label = image[0].clone()
    transform = TrainTransform(None, Augmentation(flip=True))
    torch.manual_seed(0)
    seen = {tuple(transform(image, label)[1][0].tolist()) for _ in range(30)}
    assert seen == {(0, 1, 2, 3), (3, 2, 1, 0)}
    for _ in range(10):
        assert follows(*transform(torch.stack([label, 2 * label, 3 * label]), label))


def test_class_sampled_crop_holds_a_class_drawn_evenly() -> None:
    """One pixel of class 1 in a field of class 0: it is in half of the class-sampled crops, in few of the others."""
    label = torch.zeros(60, 60, dtype=torch.uint8)
    label[13, 47] = 1
    label[:5] = 255
    image = label.expand(3, -1, -1)
    torch.manual_seed(0)
    hits = [bool((random_crop(image, label, (9, 9), 1.0, class_sampled=True)[1] == 1).any()) for _ in range(300)]
    assert 0.4 < np.mean(hits) < 0.65
    chance = [bool((random_crop(image, label, (9, 9), 1.0)[1] == 1).any()) for _ in range(300)]
    assert np.mean(chance) < 0.1


def test_class_sampled_crop_is_centered_on_the_class() -> None:
    label = torch.full((60, 60), 255, dtype=torch.uint8)
    label[30, 40] = 7
    crop = random_crop(label.expand(3, -1, -1), label, (11, 11), 1.0, class_sampled=True)[1]
    assert crop[5, 5] == 7


def test_class_sampled_crop_of_a_void_image() -> None:
    label = torch.full((20, 20), 255, dtype=torch.uint8)
    assert random_crop(label.expand(3, -1, -1), label, (5, 5), 1.0, class_sampled=True)[1].shape == (5, 5)


@pytest.mark.parametrize("class_sampled", [False, True])
def test_output_size_and_values_over_many_draws(pair: tuple[Tensor, Tensor], class_sampled: bool) -> None:
    augment = Augmentation(scale=[0.3, 3.0], flip=True, jitter=0.3, class_sampled=class_sampled)
    transform = TrainTransform((23, 64), augment)
    torch.manual_seed(0)
    for _ in range(100):
        image, label = transform(*pair)
        assert (image.shape, image.dtype) == ((3, 23, 64), torch.uint8)
        assert (label.shape, label.dtype) == ((23, 64), torch.uint8)
        assert set(label.unique().tolist()) <= {*range(9), 255}
        assert (label != 255).any()


def test_one_seed_gives_one_result(pair: tuple[Tensor, Tensor]) -> None:
    transform = TrainTransform((20, 20), Augmentation(scale=[0.5, 2.0], flip=True, jitter=0.5, class_sampled=True))
    torch.manual_seed(4)
    first = [transform(*pair)[0] for _ in range(5)]
    torch.manual_seed(4)
    again = [transform(*pair)[0] for _ in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_jitter_stays_within_its_strength() -> None:
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)  # contrast and saturation leave plain grey as it is
    torch.manual_seed(0)
    values = [int(color_jitter(grey, 0.2)[0, 0, 0]) for _ in range(200)]
    assert min(values) >= 77  # three steps, each rounded
    assert max(values) <= 123
    assert max(values) - min(values) > 30


def test_transform_leaves_its_input_alone(pair: tuple[Tensor, Tensor]) -> None:
    before = pair[0].clone(), pair[1].clone()
    for _ in range(20):
        TrainTransform((30, 70), Augmentation(scale=[0.5, 2.0], flip=True, jitter=0.5))(*pair)
    assert torch.equal(pair[0], before[0])
    assert torch.equal(pair[1], before[1])


@pytest.mark.parametrize(("given", "expected"), [(None, None), (5, (5, 5)), ([3, 4], (3, 4)), ((7, 8), (7, 8))])
def test_crop_size_forms(given: object, expected: object) -> None:
    assert parse_crop_size(given) == expected


@pytest.mark.parametrize("given", [0, [1], [1, 2, 3], "big", [0, 5], [2.5, 3], -3])
def test_bad_crop_size(given: object) -> None:
    with pytest.raises(UserError, match=r"datamodule\.crop_size="):
        make(ShapesDataModule, crop_size=given)


@pytest.mark.parametrize(
    "options",
    [{"scale": [2, 1]}, {"scale": 2.0}, {"scale": [0, 1]}, {"scale": [1, math.inf]}, {"jitter": 2}, {"jitter": "x"}],
)
def test_bad_augmentation(options: dict) -> None:
    with pytest.raises(UserError, match=rf"datamodule\.augment\.{next(iter(options))}="):
        make(ShapesDataModule, augment=options)


def test_augmentation_is_a_mapping_or_nothing() -> None:
    assert make(ShapesDataModule, augment=None).train_transform.augment == Augmentation()
    with pytest.raises(UserError, match=r"datamodule\.augment=5 should be a mapping of options"):
        make(ShapesDataModule, augment=5)


def test_unknown_augmentation_is_named_with_a_guess() -> None:
    with pytest.raises(UserError, match=r"'flp'.*'flip'"):
        make(ShapesDataModule, augment={"flp": True})


@pytest.mark.parametrize("augment", [{"scale": [0.5, 2]}, {"class_sampled": True}])
def test_steps_that_need_a_crop_say_so(augment: dict) -> None:
    with pytest.raises(UserError, match="crop_size"):
        TrainTransform(None, Augmentation(**augment))
