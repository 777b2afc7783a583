"""Find the sequences, such as videos, that the images of a run are frames of."""

import numpy as np

from segrefine.core.frames import find_frame
from segrefine.runs.read import Run


def find_sequences(run: Run) -> tuple[np.ndarray, ...]:
    """Return the indices of the images of each sequence in its order; an image of no sequence is one by itself."""
    options = run.config.get("datamodule", {})
    members: dict[object, list[tuple[int, int]]] = {}
    for index, image in enumerate(run.images):
        name, position = find_frame(image, options) or ((index,), 0)
        members.setdefault(name, []).append((position, index))
    return tuple(np.array([index for _, index in sorted(each)]) for each in members.values())
