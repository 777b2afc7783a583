"""Pictures by the colors of their pixels, and files that appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.core.labels import VOID, voc_color_map
from segrefine.io.images import save_image
from segrefine.viz import (
    BACKGROUND,
    COLUMNS,
    GAP,
    MAX_SIDE,
    MIN_SIDE,
    TEXT_HEIGHT,
    VOID_COLOR,
    VOID_ERROR_COLOR,
    WRONG_COLOR,
    colorize,
    error_map,
    legend,
    overlay,
    panel,
)

PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], np.uint8)
NAMES = ("ground", "car", "sky")


Scene = tuple[np.ndarray, np.ndarray, np.ndarray]


def scene(height: int, width: int) -> Scene:
    """A grey image whose left half is car, right half ground, top row void; all of it predicted as car."""
    truth = np.zeros((height, width), np.uint8)
    truth[:, : width // 2] = 1
    truth[0] = VOID
    return np.full((height, width, 3), 100, np.uint8), truth, np.ones((height, width), np.int64)


def one_row(scene: Scene) -> Image.Image:
    image, truth, prediction = scene
    return panel([image], [truth], [prediction], PALETTE, NAMES)


def colors(picture: np.ndarray | Image.Image) -> set[tuple[int, ...]]:
    return {tuple(map(int, color)) for color in np.unique(np.asarray(picture).reshape(-1, 3), axis=0)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_get_the_palettes_colors_and_void_its_own(dtype: type) -> None:
    picture = colorize(np.array([[0, 1, 2], [VOID, 3, 1]], dtype), PALETTE)
    void = list(VOID_COLOR)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[0, 0, 0], [255, 0, 0], [0, 128, 255]], [void, void, [255, 0, 0]]]


def test_void_keeps_its_color_under_a_full_palette() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = np.stack([np.arange(256)] * 3, axis=1).astype(np.uint8)
    picture = colorize(labels, palette).reshape(256, 3)
    np.testing.assert_array_equal(picture[:VOID], palette[:VOID])
    assert tuple(picture[VOID]) == VOID_COLOR == tuple(voc_color_map()[VOID])


def test_overlay_mixes_without_overflow() -> None:
    image, layer = np.full((2, 3, 3), 255, np.uint8), np.full((2, 3, 3), 251, np.uint8)
    mixed = overlay(image, layer)
    assert mixed.dtype == np.uint8
    assert (mixed == 253).all()


def test_overlay_of_a_large_picture_is_that_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    image, layer = rng.integers(0, 256, (2, 1501, 1000, 3), np.uint8)
    mixed = overlay(image, layer)
    assert mixed.shape == image.shape
    for row in (0, 700, 750, 751, 1500):
        np.testing.assert_array_equal(mixed[row], overlay(image[row : row + 1], layer[row : row + 1])[0])
    assert np.abs(2.0 * mixed - image - layer).max() <= 1


def test_errors_are_red_void_is_grey_and_the_rest_is_faded() -> None:
    image = np.array([[[10, 20, 30], [0, 0, 0], [255, 255, 255], [90, 0, 0]]], np.uint8)
    picture = error_map(image, np.array([[1, 1, 0, VOID]]), np.array([[1, 0, 0, 0]]))
    assert picture.tolist() == [[[161] * 3, list(WRONG_COLOR), [255] * 3, list(VOID_ERROR_COLOR)]]


def test_panel_shows_each_picture_under_its_title() -> None:
    """The middle of each column, a row below the void: enlarged by the whole factor 3, nothing mixed."""
    picture = np.asarray(one_row(scene(50, 64)))
    column = picture.shape[1] // len(COLUMNS)
    strip = picture[picture.shape[0] // 2]
    seen = [colors(strip[number * column + 10 : (number + 1) * column - 2]) for number in range(4)]
    car, ground, faded = (255, 0, 0), (0, 0, 0), (193, 193, 193)
    white = (255, 255, 255)
    assert [shown - {white} for shown in seen] == [{(100, 100, 100)}, {car, ground}, {car}, {faded, WRONG_COLOR}]
    assert (picture == VOID_COLOR).all(-1).sum() >= 3 * 3 * 64


def test_panel_is_legible_for_small_and_bounded_for_large_images() -> None:
    small, large = (one_row(scene(*size)) for size in ((8, 8), (1000, 3000)))
    assert 4 * MIN_SIDE <= small.width <= 4 * (MIN_SIDE + 16)
    assert 4 * MAX_SIDE <= large.width <= 4 * (MAX_SIDE + 16)
    assert large.height < MAX_SIDE * 1000 / 3000 + 80  # title and legend


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53)])
def test_panel_takes_any_size(size: tuple[int, int]) -> None:
    picture = one_row(scene(*size))
    assert picture.mode == "RGB"
    assert WRONG_COLOR in colors(picture)  # at least in the legend


def test_panel_stacks_rows_of_different_sizes() -> None:
    first, second = scene(60, 90), scene(90, 60)
    images, truths, predictions = zip(first, second, strict=True)
    both = panel(images, truths, predictions, PALETTE, NAMES)
    heights = [one_row(parts).height for parts in (first, second)]
    assert max(heights) < both.height < sum(heights)


def test_legend_names_what_occurs_and_grows_with_it() -> None:
    image, truth, prediction = scene(40, 40)
    without = panel([image], [truth], [prediction], PALETTE, NAMES)
    assert (0, 128, 255) not in colors(without)  # no sky
    prediction[5, 5] = 2
    assert (0, 128, 255) in colors(panel([image], [truth], [prediction], PALETTE, NAMES))
    truth[1:21] = np.arange(20 * 40).reshape(20, 40) % 100
    many = panel([image], [truth], [prediction], voc_color_map(100), [f"class {number}" for number in range(100)])
    assert many.height > without.height + 200


def test_a_legend_has_the_color_of_every_class_in_their_order() -> None:
    palette = voc_color_map(150)
    picture = np.asarray(legend([f"class number {index}" for index in range(150)], palette))
    assert picture.shape[1] <= 900
    # A box is 12 pixels of its color and more in a row. Letters have no color of the palette that long.
    runs = [
        tuple(row[left].tolist())
        for row in picture[GAP + 7 :: TEXT_HEIGHT]
        for left in np.flatnonzero((np.diff(row.astype(int), axis=0, prepend=-1) != 0).any(-1))
        if left + 12 < len(row) and (row[left : left + 12] == row[left]).all() and tuple(row[left]) != BACKGROUND
    ]
    assert runs == [tuple(color) for color in palette.tolist()]


def test_a_legend_takes_any_name() -> None:
    for name in ("", " ", "two\nlines", "\x1b[31m", "x" * 400, "street\u00e9"):
        picture = legend([name, "end"], PALETTE[1:])
        assert {(255, 0, 0), (0, 128, 255)} <= colors(picture)
    assert legend(["x" * 400], PALETTE[1:2]).width > 400 * 7  # nothing is cut off


def test_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    path, link = tmp_path / "new" / "map.png", tmp_path / "link.png"
    save_image(Image.new("RGB", (3, 2), (10, 0, 0)), path)
    link.hardlink_to(path)
    save_image(Image.new("RGB", (3, 2), (20, 0, 0)), path)
    for file, value in ((path, 20), (link, 10)):  # a new file took the name: the old one was never written to
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.getpixel((2, 1)) == (value, 0, 0)
    assert [file.name for file in path.parent.iterdir()] == ["map.png"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"old")

    def broken(self: Image.Image, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save_image(Image.new("RGB", (3, 2)), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"map.png": b"old"}


def test_a_row_that_is_wholly_void_is_drawn_as_such() -> None:
    image, truth, prediction = scene(40, 40)
    picture = one_row((image, np.full_like(truth, VOID), prediction))
    assert {VOID_COLOR, VOID_ERROR_COLOR} <= colors(picture)
    row = np.asarray(picture)[:200]  # above the legend, where wrong has its box
    assert WRONG_COLOR not in colors(row)
