"""Locks that keep processes out of each other's way."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from segrefine.core.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path` until the block ends. Creates its folder.

    The file stays. If it were removed, one process could hold the removed file while another holds a new one.

    Args:
        path: of the file.
        busy: what to tell the user where another process holds it; empty to wait for that process.

    Raises:
        UserError: Another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=not busy)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(busy) from None
    except (OSError, NotImplementedError) as error:  # the file systems of some clusters cannot lock
        log.warning(f"{path.parent} cannot be locked ({error}): make sure that no other process works in it.")
    try:
        yield
    finally:
        lock.release()
