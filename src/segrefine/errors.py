"""The one exception for what a user can put right, and the helper that names what they may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in an option, a file or a call; its message says which and what to do. Commands print it without a
    traceback.
    """

    def __init__(self, message: str) -> None:
        # From a data loader's worker, PyTorch raises the error again with the worker's traceback before the message.
        super().__init__(message.rpartition("segrefine.errors.UserError: ")[2].strip())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'a' or 'b'?"` for the known names nearest to `name`, else `" Known: a, b, c."`."""
    known = sorted(map(str, known))
    near = get_close_matches(str(name), known, n=3, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(repr(match) for match in near)}?"
    return f" Known: {', '.join(known)}."
