"""Random numbers as functions of the seed and the place in the training, not of what was drawn before.

So a run that resumes from a checkpoint draws what it would have drawn, with any number of reading processes: there is
no generator's state to be saved in each of them.
"""

import numpy as np


def mix(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers >= 0, unrelated for any two lists of them (NumPy's SeedSequence): the first
    epoch of seed 1 has nothing in common with the second of seed 0."""
    # Their count goes first, since to SeedSequence zeros at the end are nothing.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)
