"""docs/models.md has every model, and what it says of some of each kind is so."""

import runpy
from pathlib import Path

import pytest

from segrefine.core.config import list_models

DOCS = Path(__file__).parents[1] / "docs"


def test_every_model_has_a_row() -> None:
    make = runpy.run_path(str(DOCS / "make_models.py"))
    page = (DOCS / "models.md").read_text()
    assert page.startswith(make["HEAD"])
    rows = page.removeprefix(make["HEAD"]).splitlines()
    heads = [f"| `{name}` | {make['describe'](name)} |" for name in list_models()]
    assert [row[: len(head)] for row, head in zip(rows, heads, strict=True)] == heads, "run python docs/make_models.py"


@pytest.mark.parametrize("name", ["fcn8s", "fcn_dilated", "refinenet_lw", "segnet", "smp_fpn"])
def test_rows_are_up_to_date(name: str) -> None:
    row = runpy.run_path(str(DOCS / "make_models.py"))["row"](name)
    assert row in (DOCS / "models.md").read_text().splitlines(), "run python docs/make_models.py"
    assert row.count(" - |") == {"fcn_dilated": 2, "segnet": 2}.get(name, 0)
