"""Draw scenes with seven kinds of objects distinguished by shape alone, over textured backgrounds.

The set shows what a decoder is for. Thin rings and wires and small objects are lost at a coarse stride. A ring and a
wire, or a cross's arm and a square, look the same up close and need context. Color and texture say nothing about the
class. A scene depends only on (seed, split, index). Nothing is downloaded.
"""

import numpy as np

from segrefine.data.shapes import sdf
from segrefine.data.shapes.texture import random_texture

SIZE = 128  # height and width of a scene, pixels

# Difficulty. Colors are on the scale [0, 255].
OBJECTS = (3, 6)  # objects in a scene, both ends included
DIAMETER = (8.0, 64.0)  # of an object, pixels
LEAST_WIRE = 40.0  # diameter of the shortest wire, pixels: a shorter one is a mere speck
SMALLNESS = 0.25  # diameters are low * (high / low) ** u ** SMALLNESS, u uniform: the higher, the more are small
THICKNESS = {"ring": (5.0, 14.0), "wire": (5.0, 12.0)}  # of the thin kinds, pixels
TURN = 15.0  # greatest rotation of an object from upright, degrees either way
CONTRAST = (100.0, 190.0)  # distance in RGB between an object's color and what lies under its center
OBJECT_TEXTURE = (0.0, 15.0)  # distance in RGB between the two colors of an object's texture
BACKGROUND_TEXTURE = (5.0, 30.0)  # the same for the background
LIGHT = 40.0  # greatest change of brightness by the light from the middle of a scene to its edge
PLACES = 4  # tried for an object, of which the one that covers least of other objects is taken: overlaps become few
INSIDE = 0.6  # share of an object's radius that stays inside the scene at least
NOISE = (1.0, 6.0)  # standard deviation of the noise of every pixel and channel, drawn once for a scene

KINDS = ("disc", "ring", "wire", "square", "triangle", "cross", "star")
CLASSES = ["background", *KINDS]


def draw_scene(rng: np.random.Generator, objects: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw the image (3, SIZE, SIZE) uint8 RGB and label (SIZE, SIZE) uint8 of a random scene.

    Later objects cover earlier ones. `objects` is their number, by default random within OBJECTS.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    color = rng.uniform(50, 205, 3)
    image = random_texture(rng, columns, rows, color, rng.uniform(*BACKGROUND_TEXTURE))
    label = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(objects or rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        draw_object(rng, image, label)
    slope = rng.uniform(-LIGHT, LIGHT, 2).astype(np.float32) / SIZE
    image += slope[0] * (columns - SIZE / 2) + slope[1] * (rows - SIZE / 2)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*NOISE))
    return image.clip(0, 255).round().astype(np.uint8), label


def draw_object(rng: np.random.Generator, image: np.ndarray, label: np.ndarray) -> None:
    """Draw an object of random kind, place, size, rotation and appearance, in place.

    Args:
        rng: the source of all random choices.
        image: (3, H, W) float32.
        label: (H, W) uint8.
    """
    kind = rng.integers(len(KINDS))
    least, most = (LEAST_WIRE if KINDS[kind] == "wire" else DIAMETER[0]), DIAMETER[1]
    diameter = least * (most / least) ** (rng.random() ** SMALLNESS)
    places = rng.uniform(INSIDE * diameter / 2, SIZE - INSIDE * diameter / 2, (PLACES, 2))
    x, y = min(places, key=lambda place: np.count_nonzero(label[_box(place[0], place[1], diameter)]))
    box = _box(x, y, diameter)
    rows, columns = np.mgrid[box].astype(np.float32)
    angle = np.deg2rad(rng.uniform(-TURN, TURN))
    across, down = columns - np.float32(x), rows - np.float32(y)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance = signed_distance(rng, KINDS[kind], cos * across + sin * down, cos * down - sin * across, diameter / 2)

    under = image[:, int(y), int(x)]
    direction = rng.standard_normal(3)
    direction *= rng.uniform(*CONTRAST) / np.linalg.norm(direction)
    beyond = np.abs(under + direction - 127.5) > 127.5  # channels in which clipping would take the contrast away
    color = under + np.where(beyond, -direction, direction)
    fill = random_texture(rng, columns, rows, color, rng.uniform(*OBJECT_TEXTURE))
    opacity = (0.5 - distance).clip(0, 1)  # soft over one pixel about the edge
    canvas = image[:, *box]
    canvas += opacity * (fill - canvas)
    label[box][distance < 0] = kind + 1


def _box(x: float, y: float, diameter: float) -> tuple[slice, slice]:
    """Return the rows and columns that hold an object and its soft edge."""
    reach = diameter / 2 + 2
    rows, columns = (slice(max(int(center - reach), 0), min(int(center + reach) + 2, SIZE)) for center in (y, x))
    return rows, columns


def signed_distance(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the distance in pixels of points (x, y) from the edge of an object at the origin, negative inside."""
    if kind == "ring":
        return sdf.ring(x, y, radius, min(rng.uniform(*THICKNESS["ring"]), radius / 2))
    if kind == "wire":
        return sdf.wire(
            x, y, radius, rng.uniform(*THICKNESS["wire"]), bend=rng.uniform(-2.4, 2.4), s_shaped=rng.random() < 0.5
        )
    return getattr(sdf, kind)(x, y, radius)
