"""Define the exceptions for what a user can fix, and helpers to word messages."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from segrefine.core.text import printable


class UserError(ValueError):
    """A mistake in an option, a file or a call. The message says what to do. Commands print it without a traceback."""

    def __init__(self, message: str) -> None:
        # From a data loader's worker, PyTorch raises the error again with the worker's traceback before the message.
        text = message.rpartition(f"{type(self).__module__}.{type(self).__name__}: ")[2].strip()
        super().__init__(printable(text))


class BadFileError(UserError):
    """A file of the data that cannot be used. The message names it."""


class NonFiniteError(UserError):
    """Values that are not finite. `before_step` is true if they have not changed the network's weights yet."""

    def __init__(self, message: str, before_step: bool = False) -> None:
        super().__init__(message)
        self.before_step = before_step


def listing(items: Sequence, shown: int = 5) -> str:
    """Return the first few items, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(str(item) for item in items[:shown]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'a' or 'b'?"` with the known names nearest to `name`, or `" Known: a, b, c."`."""
    known = sorted(map(str, known))
    if near := get_close_matches(str(name), known, n=3, cutoff=0.6):
        return f" Did you mean {' or '.join(map(repr, near))}?"
    return f" Known: {', '.join(known)}."
