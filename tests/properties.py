"""What the property tests (test_properties_*.py) share: how many examples they try, and ways to draw them.

`SEGREFINE_FUZZ=thousands pytest -n0 tests/test_properties_losses.py` tries a hundred times as many, new ones each time.
"""

import math
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from torch import Tensor

from segrefine.labels import VOID

set_hypothesis_home_dir(tempfile.gettempdir())  # where it keeps what it found in our sources, not in the project
common = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate, Phase.shrink],
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("few", max_examples=20, derandomize=True, **common)
settings.register_profile("thousands", max_examples=2000, **common)
settings.load_profile(os.environ.get("SEGREFINE_FUZZ", "few"))


def examples(share: float) -> settings:
    """A share of the profile's examples, for tests in which one takes long; nor are those made smaller that fail."""
    return settings(max_examples=math.ceil(settings().max_examples * share), phases=[Phase.generate])


seeds = st.integers(0, 2**32 - 1)
void_shares = st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0])
layouts = st.sampled_from(["contiguous", "channels_last", "strided"])


def sizes(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    """Height and width, each drawn alone."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


def random_labels(seed: int, shape: Sequence[int], classes: int, void: float) -> np.ndarray:
    """0..classes-1 with a share of void, uint8, in patches of a random size; some classes may be absent."""
    rng = np.random.default_rng(seed)
    patch = int(rng.integers(1, 9))
    present = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
    coarse = rng.choice(present, [*shape[:-2], *(side // patch + 1 for side in shape[-2:])])
    labels = coarse.repeat(patch, -2).repeat(patch, -1)[..., : shape[-2], : shape[-1]]
    return np.where(rng.random(shape) < void, VOID, labels).astype(np.uint8)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values (B, C, H, W) in another order in memory; `strided` has gaps between them."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return tensor.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)[..., ::2, ::2]
    return tensor
