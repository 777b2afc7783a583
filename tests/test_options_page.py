"""docs/options.md says what the dataclasses and config files say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_options_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "make_options.py"))["page"]
    assert (DOCS / "options.md").read_text() == page(), "run python docs/make_options.py"
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert "| `recipe.momentum` | number at least 0 below 1 | `0.9` | SGD |" in rows
    assert "| `model.upsample` | `resize`, `interpolate` | `resize` |" in "".join(rows)
