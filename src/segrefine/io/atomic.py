"""Write files completely or not at all: under a temporary name in the same folder, then renamed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, which becomes `path` at the end of the block.

    An error in the block leaves `path` as it was. The name keeps the extension, from which some writers infer the
    format, and contains the process id, since several processes may write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # the same folder, so that renaming is one step
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a machine that goes down may keep the name and lose the content
        os.replace(part, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a write to a full disk does not name the file
        raise
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove unfinished files of killed processes, in a folder that nobody else writes to now."""
    for part in folder.rglob(".*.*"):
        if re.fullmatch(r"\..+\.\d+\.\w+", part.name):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
