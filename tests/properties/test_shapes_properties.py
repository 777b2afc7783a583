"""Generated scenes: the same for one seed, split and index, else others; what they are drawn of stays in range."""

import numpy as np
import torch
from builders import make
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, seeds

from segrefine.data.datamodule import SPLITS
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.shapes import texture
from segrefine.data.shapes.scenes import CLASSES, KINDS, LEAST_WIRE, SIZE, signed_distance

sets = st.tuples(st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(0, 30))


def scene(key: tuple[int, str, int], others: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn anew, in a split that holds so many more."""
    seed, split, index = key
    sizes = {f"{name}_size": index + 1 + others for name in SPLITS}
    return make(ShapesDataModule, seed=seed, **sizes).dataset(split).read(index)


@given(key=sets, other=sets, part=st.integers(0, 2), sizes=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_a_scene_depends_on_seed_split_and_index_alone(
    key: tuple[int, str, int], other: tuple[int, str, int], part: int, sizes: tuple[int, int]
) -> None:
    image, label = scene(key, sizes[0])
    assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
    assert (label.shape, label.dtype) == ((SIZE, SIZE), torch.uint8)
    assert set(label.unique().tolist()) <= set(range(len(CLASSES)))
    again = scene(key, sizes[1])
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], label)
    changed = (*key[:part], other[part], *key[part + 1 :])
    assert torch.equal(scene(changed, 0)[0], image) == (changed == key)


@given(
    seed=seeds,
    pattern=st.sampled_from(["smooth", "stripes", "checkers", "dots"]),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    contrast=st.floats(0, 200),
)
def test_textures_stay_within_their_contrast(seed: int, pattern: str, size: tuple[int, int], contrast: float) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    mixture = getattr(texture, pattern)(np.random.default_rng(seed), columns, rows)
    assert (mixture.shape, mixture.dtype) == (size, np.float32)
    assert 0 <= mixture.min() <= mixture.max() <= 1
    color = np.random.default_rng(seed).uniform(0, 255, 3)
    image = texture.random_texture(np.random.default_rng(seed), columns, rows, color, contrast)
    assert (image.shape, image.dtype) == ((3, *size), np.float32)
    assert np.linalg.norm(image - color[:, None, None], axis=0).max() <= contrast / 2 + 1e-3


@examples(0.5)
@given(seed=seeds, kind=st.sampled_from(KINDS), radius=st.floats(4, 32))
def test_distances_change_by_no_more_than_the_way_gone_and_shapes_stay_in_their_circle(
    seed: int, kind: str, radius: float
) -> None:
    radius = max(radius, LEAST_WIRE / 2) if kind == "wire" else radius  # none is drawn that is shorter
    y, x = np.mgrid[-1.5:1.5:41j, -1.5:1.5:41j] * radius
    distance = signed_distance(np.random.default_rng(seed), kind, x, y, radius)
    step = 3 * radius / 40
    assert max(np.abs(np.diff(distance, axis=axis)).max() for axis in (0, 1)) <= step * (1 + 1e-6)
    assert np.hypot(x, y)[distance < 0].max(initial=0) <= radius * (1 + 1e-6)
