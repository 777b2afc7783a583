"""Read and write the file of `datamodule.exclude`: examples to skip.

`segrefine data check write_exclude=FILE` writes such a file. Each line is `split id  # reason`, and a line that starts
with `#` is a comment. Ids are names of files, so they may hold spaces, and bytes that are not UTF-8.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from segrefine.core.errors import UserError
from segrefine.data.datamodule import SPLITS
from segrefine.io.atomic import replacing

REASON = "  # "


def read_exclude(path: Path) -> dict[str, set[str]]:
    """Return the ids that the file names, by split; UserError if it is missing, or a line names no split and id."""
    if not path.is_file():
        raise UserError(
            f"datamodule.exclude={path}: there is no such file. Write it with segrefine data check write_exclude=FILE, "
            "or set datamodule.exclude=null."
        )
    found: dict[str, set[str]] = {}
    for number, line in enumerate(os.fsdecode(path.read_bytes()).removeprefix("\ufeff").split("\n"), start=1):
        split, _, name = line.partition(REASON.rstrip())[0].rstrip("\r").partition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if split not in SPLITS or not name:
            raise UserError(f"{path}, line {number}: expected a split and an id, such as 'val 0004', not {line!r}.")
        found.setdefault(split, set()).add(name)
    return found


def write_exclude(path: Path, bad: Iterable[tuple[str, str, str]]) -> None:
    """Write a file for `read_exclude` from triples of split, id and reason."""
    lines = ["# Examples that datamodule.exclude skips: split, id and reason."]
    lines += [f"{split} {name}{REASON}{' '.join(reason.split())}" for split, name, reason in bad]
    with replacing(path) as part:
        part.write_bytes(os.fsencode("\n".join(lines) + "\n"))
