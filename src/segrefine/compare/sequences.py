"""Which images follow one another as frames of a sequence, by what the data module says of their names."""

import logging

import numpy as np

from segrefine.core.errors import UserError
from segrefine.core.registry import DATAMODULES
from segrefine.runs.read import Run

log = logging.getLogger(__name__)


def find_sequences(run: Run) -> tuple[np.ndarray, ...]:
    """Return the indices of the images of each sequence in its order; an image of no sequence is one by itself."""
    options = run.config.get("datamodule", {})
    try:
        kind = DATAMODULES.find(options.get(DATAMODULES.key))
    except UserError:
        log.warning(f"The data module of {run.folder.path} is not known here: its images are taken as independent.")
        return tuple(np.arange(len(run.images))[:, None])
    members: dict[object, list[tuple[int, int]]] = {}
    for index, image in enumerate(run.images):
        name, position = kind.sequence(image, options) or ((index,), 0)
        members.setdefault(name, []).append((position, index))
    return tuple(np.array([index for _, index in sorted(each)]) for each in members.values())
