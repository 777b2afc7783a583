"""Tables that benchmarks add to row by row, so that a run that was cut off goes on."""

import csv
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, str]]:
    """Read all rows; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, names: list[str], row: dict[str, Any]) -> None:
    """Add a row and print what it says."""
    head = not path.is_file()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, names, restval="")
        if head:
            table.writeheader()
        table.writerow(row)
    print({name: value for name, value in row.items() if value != ""}, flush=True)
