"""The notebooks run from the first cell to the last, in the sizes for tests, and are committed without outputs."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_runs import draw_counts, write_run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

Execute = Callable[..., str]


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Execute:
    """Runs a notebook where it lies, as Jupyter does, and returns all that it printed."""
    monkeypatch.setenv("SEGREFINE_NOTEBOOKS", "quick")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # no settings or history of the user
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))

    import nbformat  # which takes seconds
    from nbclient import NotebookClient

    def run(name: str) -> str:
        content = nbformat.read(NOTEBOOKS / name, as_version=4)
        content.metadata.kernelspec.name = "python3"
        NotebookClient(content, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
        outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
        return "".join(output.get("text", "") + output.get("data", {}).get("text/html", "") for output in outputs)

    return run


@pytest.mark.slow  # .ci/run executes the notebooks with the committed results
def test_the_comparison_names_what_is_missing(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGREFINE_RESULTS", str(tmp_path))
    printed = execute("comparison.ipynb")
    assert "there: 0 of" in printed
    assert "There are no two variants" in printed


@pytest.mark.slow
def test_the_comparison_reaches_the_verdict_of_the_package(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGREFINE_RESULTS", str(tmp_path))
    for name, right in {"fcn8s": 0.6, "refinenet": 0.8}.items():
        for seed in range(2):
            write_run(tmp_path / f"{name}_seed{seed}", draw_counts(seed, 40, right), name, seed)
    printed = execute("comparison.ipynb")  # its last cell asserts that the steps give what `Bootstrap` gives
    assert "there: 2 of" in printed
    assert "missing, so skipped: fcn32s, fcn16s\n" in printed
    assert "refinenet against fcn8s: better by" in printed


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 200_000
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
