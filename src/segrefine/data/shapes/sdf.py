"""Signed distances of plane shapes centered at the origin: negative inside, in the units of x and y.

x, y and the result are arrays of one shape. `radius` is that of the circle around the shape. The distances are exact
near the edges. Beyond corners some are slightly too short, which does not affect the soft edges.
"""

import numpy as np


def disc(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of a disc."""
    return np.hypot(x, y) - radius


def ring(x: np.ndarray, y: np.ndarray, radius: float, thickness: float) -> np.ndarray:
    """Return the signed distance of a ring that is `thickness` wide."""
    return np.abs(np.hypot(x, y) - (radius - thickness / 2)) - thickness / 2


def square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of an upright square."""
    return np.maximum(np.abs(x), np.abs(y)) - radius / np.sqrt(2)


def triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of an equilateral triangle with a corner on the positive y axis."""
    return np.maximum(-y, np.sqrt(0.75) * np.abs(x) + y / 2) - radius / 2


def cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of a plus sign with arms 0.68 radius wide."""
    x, y = np.abs(x), np.abs(y)
    width = 0.34 * radius
    length = np.sqrt(radius**2 - width**2)
    return np.minimum(np.maximum(x - length, y - width), np.maximum(x - width, y - length))


def star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance of a five-pointed star with its inner corners at 0.55 radius."""
    sector = np.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector) % (2 * sector) - sector)  # folded into half a point's sector
    distance = np.hypot(x, y)
    tip, inner = np.array([radius, 0]), 0.55 * radius * np.array([np.cos(sector), np.sin(sector)])
    along = (inner - tip) / np.linalg.norm(inner - tip)
    return (distance * np.cos(angle) - tip[0]) * along[1] - distance * np.sin(angle) * along[0]


def wire(x: np.ndarray, y: np.ndarray, radius: float, thickness: float, bend: float, s_shaped: bool) -> np.ndarray:
    """Return the signed distance of an open curve of two arcs, each turning by `bend` radians.

    Both turn the same way (a C) or, if `s_shaped`, opposite ways (an S).
    """
    time = np.linspace(-1, 1, 15)
    heading = bend * (np.abs(time) if s_shaped else time)
    points = np.cumsum(np.exp(1j * heading))  # the plane as complex numbers
    points -= complex(points.real.max() + points.real.min(), points.imag.max() + points.imag.min()) / 2
    points *= (radius - thickness / 2) / np.abs(points).max()
    start, along = points[:-1, None, None], np.diff(points)[:, None, None]
    towards = (x + 1j * y - start) / along  # in the frame where the segment runs from 0 to 1
    beyond = towards - towards.real.clip(0, 1)
    return (np.abs(beyond) * np.abs(along)).min(axis=0) - thickness / 2
