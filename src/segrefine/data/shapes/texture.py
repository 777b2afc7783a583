"""Draw random two-colored textures for the generated scenes: smooth noise, stripes, checkers and dots."""

import numpy as np


def random_texture(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, color: np.ndarray, contrast: float
) -> np.ndarray:
    """Return RGB (3, H, W) float32 at points (x, y), each (H, W) pixels: around `color`, up to `contrast` apart.

    Args:
        rng: the source of all random choices.
        x: (H, W) pixels.
        y: (H, W) pixels.
        color: (3,) RGB, the mean of the two colors.
        contrast: the distance of the two colors in RGB.
    """
    pattern = (smooth, stripes, checkers, dots)[rng.integers(4)]
    direction = rng.standard_normal(3)
    direction *= contrast / np.linalg.norm(direction)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    mixture = pattern(rng, cos * x + sin * y, cos * y - sin * x) - np.float32(0.5)
    base, direction = color.astype(np.float32), direction.astype(np.float32)
    return base[:, None, None] + direction[:, None, None] * mixture


def smooth(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return soft clouds: a few plane waves 20 to 80 pixels long. Like the others, (H, W) float32 within [0, 1]."""
    waves = [_wave(rng, u, rng.uniform(20, 80)) for u in (x, y, x + y, x - y)]
    return np.float32(0.5) + np.sum(waves, axis=0) / 8


def stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return parallel bands, with a period of 6 to 30 pixels."""
    return _edge(_wave(rng, x, rng.uniform(6, 30)))


def checkers(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return squares of two colors, 8 to 40 pixels a pair. Cells look like small square objects, but come in rows."""
    period = rng.uniform(8, 40)
    return _edge(_wave(rng, x, period) * _wave(rng, y, period))


def dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return round spots, 10 to 30 pixels apart. Each looks like a small disc, but they come in rows."""
    period = rng.uniform(10, 30)
    return _edge(_wave(rng, x, period) + _wave(rng, y, period) - 0.8)


def _wave(rng: np.random.Generator, u: np.ndarray, period: float) -> np.ndarray:
    return np.sin(np.float32(2 * np.pi / period) * u + np.float32(rng.uniform(0, 2 * np.pi)))


def _edge(wave: np.ndarray) -> np.ndarray:
    """Turn a wave around 0 into bands of 0 and 1 with soft edges."""
    return (wave * np.float32(2.5) + np.float32(0.5)).clip(0, 1)
