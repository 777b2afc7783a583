import hashlib
import time

import numpy as np
import pytest
import torch
from builders import make
from scipy import ndimage

from segrefine.core.errors import UserError
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.shapes import scenes, sdf
from segrefine.data.shapes.scenes import CLASSES, KINDS, SIZE, draw_object, draw_scene


def digest(seed: int, split: str, index: int) -> str:
    image, label = make(ShapesDataModule, train_size=5, val_size=5, test_size=5, seed=seed).dataset(split).read(index)
    return hashlib.sha256(image.numpy().tobytes() + label.numpy().tobytes()).hexdigest()


def test_scene_depends_on_seed_split_and_index_only() -> None:
    datamodule = make(ShapesDataModule, train_size=5, val_size=5)
    dataset = datamodule.dataset("train")
    backwards = [dataset.read(index) for index in reversed(range(5))][::-1]
    for index, (image, label) in enumerate(backwards):
        fresh_image, fresh_label = make(ShapesDataModule, train_size=99).dataset("train").read(index)
        assert torch.equal(image, fresh_image)
        assert torch.equal(label, fresh_label)
    keys = [(0, "train", 0), (0, "train", 1), (0, "val", 0), (0, "test", 0), (1, "train", 0)]
    assert len({digest(*key) for key in keys}) == len(keys)


def test_scenes_are_the_same_from_worker_processes() -> None:
    here = make(ShapesDataModule, val_size=4, seed=3).dataset("val")
    loader = make(ShapesDataModule, val_size=4, seed=3, num_workers=2).val_dataloader()
    for index, batch in enumerate(loader):
        assert batch["index"].item() == index
        assert torch.equal(batch["image"][0], here.read(index)[0])


def test_scene_kinds_shapes_and_classes() -> None:
    dataset = make(ShapesDataModule, train_size=40).dataset("train")
    labels = [dataset.read(index)[1] for index in range(40)]
    image, label = dataset.read(0)
    assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
    assert (label.shape, label.dtype) == ((SIZE, SIZE), torch.uint8)
    assert torch.stack(labels).unique().tolist() == list(range(8)) == list(range(len(CLASSES)))
    assert all(len(label.unique()) > 1 for label in labels)
    background = (torch.stack(labels) == 0).float().mean()
    assert 0.6 < background < 0.95


def test_items_are_drawn_once() -> None:
    datamodule = make(ShapesDataModule, train_size=2)
    first = datamodule.dataset("train")[0]["image"]
    assert datamodule.dataset("train")[0]["image"] is first
    assert datamodule.dataset("val").read(0)[0] is not first


def test_color_says_nothing_about_the_class() -> None:
    """Mean color of each class over many objects: no class stands out from the others by more than chance."""
    rng = np.random.default_rng(0)
    colors: dict[int, list[np.ndarray]] = {kind: [] for kind in range(1, 8)}
    for _ in range(1500):
        image = np.full((3, SIZE, SIZE), 127.0, np.float32)
        label = np.zeros((SIZE, SIZE), np.uint8)
        draw_object(rng, image, label)
        if label.any():
            colors[int(label.max())].append(image[:, label > 0].mean(axis=1))
    samples = {kind: np.array(found) for kind, found in colors.items()}
    overall = np.concatenate(list(samples.values()))
    for found in samples.values():
        assert len(found) > 100
        error = overall.std(axis=0) / np.sqrt(len(found))
        assert (np.abs(found.mean(axis=0) - overall.mean(axis=0)) < 4.5 * error).all()


def test_object_changes_only_its_own_box_and_edges_are_soft() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        image = np.full((3, SIZE, SIZE), 127.0, np.float32)
        label = np.zeros((SIZE, SIZE), np.uint8)
        draw_object(rng, image, label)
        changed = (image != 127).any(axis=0)
        assert not (label.astype(bool) & ~changed).sum() > 2  # a pixel may by chance be given the color it had
        grown = np.zeros_like(changed)  # the label, two pixels wider on all sides: corners can be finer than a pixel
        for down in range(-2, 3):
            for across in range(-2, 3):
                grown |= np.roll(label > 0, (down, across), (0, 1))
        assert not (changed & ~grown)[2:-2, 2:-2].any()


@pytest.fixture
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y) a tenth of a pixel apart, from -12 to 12."""
    y, x = np.mgrid[-11.95:12:0.1, -11.95:12:0.1]
    return x, y


RADIUS = 10.0
AREAS = {
    "disc": np.pi * RADIUS**2,
    "square": 2 * RADIUS**2,
    "triangle": np.sqrt(27) / 4 * RADIUS**2,
    # Two bars less the square where they cross; the bar's corners lie on the circle.
    "cross": 8 * 3.4 * np.sqrt(RADIUS**2 - 3.4**2) - 4 * 3.4**2,
    "star": 10 * 0.5 * RADIUS * 5.5 * np.sin(np.pi / 5),  # ten triangles with a corner in the middle
}


@pytest.mark.parametrize("kind", AREAS)
def test_area_and_reach_of_shapes(kind: str, grid: tuple[np.ndarray, np.ndarray]) -> None:
    within = getattr(sdf, kind)(*grid, RADIUS) < 0
    assert within.sum() * 0.01 == pytest.approx(AREAS[kind], rel=0.01)
    assert np.hypot(*grid)[within].max() == pytest.approx(RADIUS, abs=0.35)


def test_area_of_ring_and_wire(grid: tuple[np.ndarray, np.ndarray]) -> None:
    ring = sdf.ring(*grid, RADIUS, 3.0) < 0
    assert ring.sum() * 0.01 == pytest.approx(np.pi * (10**2 - 7**2), rel=0.01)
    straight = sdf.wire(*grid, RADIUS, 2.0, bend=0.0, s_shaped=False) < 0
    assert straight.sum() * 0.01 == pytest.approx(18 * 2 + np.pi, rel=0.01)  # a bar with round ends


@pytest.mark.parametrize("s_shaped", [False, True])
@pytest.mark.parametrize("bend", [-2.4, -1.2, 0.7, 2.4])
def test_wire_is_open_thin_and_within_its_circle(
    grid: tuple[np.ndarray, np.ndarray], bend: float, s_shaped: bool
) -> None:
    within = sdf.wire(*grid, RADIUS, 2.0, bend, s_shaped) < 0
    assert np.hypot(*grid)[within].max() == pytest.approx(RADIUS, abs=0.35)
    assert ndimage.label(~within)[1] == 1  # an open curve leaves its outside in one piece


@pytest.mark.parametrize("kind", KINDS)
def test_distance_falls_by_one_per_pixel_across_the_edge(kind: str, grid: tuple[np.ndarray, np.ndarray]) -> None:
    distance = scenes.signed_distance(np.random.default_rng(0), kind, *grid, 10.0)
    slope = np.hypot(*np.gradient(distance, 0.1))
    edge = np.abs(distance) < 0.5
    assert np.median(slope[edge]) == pytest.approx(1, abs=0.02)
    assert slope[edge].max() < 1.1


def test_objects_differ_from_what_they_cover() -> None:
    """Every object stays visible: its fill differs from what it covers by about the least contrast."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        base = rng.uniform(0, 255, 3).astype(np.float32)
        image = np.broadcast_to(base[:, None, None], (3, SIZE, SIZE)).copy()
        label = np.zeros((SIZE, SIZE), np.uint8)
        draw_object(rng, image, label)
        if (label > 0).sum() > 30:
            fill = image.clip(0, 255)[:, label > 0].mean(axis=1)
            assert np.linalg.norm(fill - base) > 0.4 * scenes.CONTRAST[0]


@pytest.mark.parametrize(
    ("option", "value"), [("train_size", 0), ("val_size", -1), ("seed", -1), ("train_size", "many"), ("batch_size", 0)]
)
def test_bad_options_are_named(option: str, value: object) -> None:
    with pytest.raises(UserError, match=option):
        make(ShapesDataModule, **{option: value})


def test_generation_is_fast() -> None:
    draw_scene(np.random.default_rng(0))
    start = time.process_time()
    for index in range(20):
        draw_scene(np.random.default_rng(index))
    assert (time.process_time() - start) / 20 < 0.02  # seconds; ten times what it takes, since machines differ


def test_a_scene_of_one_object_shows_one_kind() -> None:
    for index in range(20):
        _, label = draw_scene(np.random.default_rng(index), objects=1)
        assert len(np.unique(label)) == 2  # and the background
