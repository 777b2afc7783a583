"""The shape of the code: file names of a run in one place, short functions, and commands that import nothing heavy.

Which package imports which is held by import-linter (pyproject.toml).
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import segrefine
from segrefine.runs.folder import RunFolder

PACKAGE = Path(segrefine.__file__).parent
SOURCES = [*sorted(PACKAGE.rglob("*.py")), PACKAGE.parent / "hydra_plugins/segrefine_launcher.py"]
NAMES = {
    name.rpartition("/")[2]
    for name in vars(RunFolder).values()
    if isinstance(name, str) and Path(name).suffix in (".yaml", ".json", ".csv", ".txt", ".log", ".ckpt")
}


def strings(tree: ast.AST) -> Iterator[str]:
    """The string literals of a module, parts of f-strings too, without those that stand alone, which are docstrings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_names_of_a_runs_files_stand_in_one_place() -> None:
    assert {"summary.json", "best.ckpt", "last.ckpt", "train.log"} < NAMES
    owner = PACKAGE / "runs/folder.py"
    elsewhere = {
        (file.relative_to(PACKAGE.parent).as_posix(), text)
        for file in SOURCES
        if file != owner
        for text in strings(ast.parse(file.read_text()))
        if any(name in text for name in NAMES)
    }
    assert elsewhere == set()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(PACKAGE.parent).as_posix())
def test_functions_fit_a_screen(file: Path) -> None:
    """40 lines and 6 parameters at the most."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 40, node.name
            assert len([argument for argument in given if argument.arg not in ("self", "cls")]) <= 6, node.name


def test_packages_of_extras_are_imported_where_they_are_asked_for_alone() -> None:
    """By `core.extras.require`, which says what to install."""
    extras = {"timm", "segmentation_models_pytorch", "onnxruntime", "onnxscript"}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & extras, file


def test_the_command_line_imports_nothing_heavy() -> None:
    program = "import sys\n"
    for command in ("train", "evaluate", "predict", "compare", "export", "benchmark", "data", "main"):
        program += f"import segrefine.cli.{command}\n"
        program += f"print('{command}', {{'torch', 'lightning', 'wandb', 'numpy'}} & set(sys.modules))\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [line for line in result.stdout.splitlines() if not line.endswith("set()")] == []
    assert len(result.stdout.splitlines()) == 8


def test_finished_runs_are_compared_without_pytorch() -> None:
    """It takes half of a small comparison's time to import."""
    run = next((PACKAGE.parents[1] / "experiments/results/camvid").iterdir())
    program = (
        "import sys; from pathlib import Path; import segrefine.compare.report; "
        "from segrefine.runs.read import read_run; from segrefine.compare.statistics import find_sequences; "
        f"find_sequences(read_run(Path({str(run)!r}))); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
