"""Derive random numbers from the seed and the position in training, not from earlier draws.

A run that resumes from a checkpoint therefore draws what it would have drawn without the interruption, with any number
of loader processes. There is no generator state to save in each of them.
"""

import numpy as np


def mix(*numbers: int) -> int:
    """Return a seed of 63 bits for a list of whole numbers >= 0, unrelated to that of any other list.

    It comes from NumPy's SeedSequence: the first epoch of seed 1 has nothing in common with the second of seed 0.
    """
    # Their count goes first, since to SeedSequence zeros at the end are nothing.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)
