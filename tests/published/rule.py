"""How the published networks are filled and asked, so that their code and ours can be compared without their weights.

Every tensor is filled from its published name alone, every image from its size: value i is number i of the SplitMix64
stream whose seed is the CRC-32 of the name (Steele, Lea, Flood, OOPSLA 2014), so nothing depends on a library's
generator. The scale keeps activations of order one. What is kept of an output is a strided sample of its values and its
products with a few vectors of signs, which stand for all the rest.
"""

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

SIZES = ((97, 129), (256, 256), (375, 500))
"""Height and width of the images, pixels: odd, square, and PASCAL VOC's."""

SAMPLES, SIGNS = 400, 8
_CHUNK = 2**15  # what fits into a core's cache takes a sixth of the time


def uniform(name: str, count: int) -> np.ndarray:
    """`count` float64 numbers in [-1, 1), the stream of `name`."""
    values = np.empty(count)
    seed = np.uint64(crc32(name.encode()))
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        state = np.arange(start + 1, start + 1 + len(part), dtype=np.uint64)
        state *= np.uint64(0x9E3779B97F4A7C15)
        state += seed
        state ^= state >> np.uint64(30)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
        np.multiply(state >> np.uint64(11), 2.0**-52, out=part)
        part -= 1
    return values


def filled(name: str, like: Tensor) -> Tensor:
    """A tensor for the published name, with the shape and dtype of `like`.

    Convolutions: uniform with variance 2 / fan-in, as suits ReLU (He et al., ICCV 2015); a residual branch's last one
    and links of a pooling chain a quarter of that, since their outputs add up. Batch norm: weight and variance around
    1, the rest around 0.
    """
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    values = uniform(name, like.numel())
    if name.endswith("running_var"):
        values = 1 + values / 2
    elif like.ndim == 4:
        if "upscore" in name:  # a transposed convolution with 2 * stride taps: each output sees four cells
            values *= np.sqrt(3 / (4 * len(like)))
        else:
            adds_up = any(part in name for part in ("varout_dimred", "outvar_dimred"))
            values *= np.sqrt(3 * 2 / like[0].numel()) * (0.5 if adds_up else 1)
    elif name.endswith(("bn3.weight", "bn2.weight")):
        values = 0.3 + values / 10
    elif name.endswith("weight"):
        values = 1 + values / 4
    else:
        values /= 10
    return torch.from_numpy(values).to(like.dtype).view(like.shape)


def filled_like(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a state dict with published names."""
    return {name: filled(name, tensor) for name, tensor in tensors.items()}


def image(size: tuple[int, int]) -> Tensor:
    """An image (1, 3, H, W) float64 of RGB in [0, 1], with some structure: waves and noise."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (5 + channel) + columns / (9 - channel)) for channel in range(3)])
    noise = uniform(f"image {height}x{width}", waves.size).reshape(waves.shape)
    return torch.from_numpy(0.5 + 0.3 * waves + 0.2 * noise)[None]


def labels(size: tuple[int, int], num_classes: int) -> Tensor:
    """A label map (1, H, W) int64 with blocks of classes and some void."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    values = (rows // 17 + 3 * (columns // 23)) % (num_classes + 1)
    return torch.from_numpy(np.where(values == num_classes, 255, values))[None]


def digest(tensor: Tensor) -> np.ndarray:
    """(SAMPLES + SIGNS,) float64: evenly spread values of the tensor, then its products with vectors of signs, over the
    root of its size, and so of the order of its values.
    """
    values = tensor.detach().double().cpu().contiguous().numpy().ravel()
    spread = np.linspace(0, len(values) - 1, SAMPLES).astype(np.int64)
    signs = [np.sign(uniform(f"signs {number}", len(values))) @ values for number in range(SIGNS)]
    return np.concatenate([values[spread], np.array(signs) / np.sqrt(len(values))])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of two digests over the largest value expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
