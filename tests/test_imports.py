"""Imports point one way: data knows no model, models know no data, decoders no encoders; help imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segrefine

PACKAGE = Path(segrefine.__file__).parent
MODELS = {"segrefine.model", "segrefine.encoders", "segrefine.decoders", "segrefine.upsampling", "segrefine.lit_module"}
FORBIDDEN = {
    "data": MODELS | {"segrefine.run", "segrefine.evaluation"},
    "decoders": {"segrefine.encoders", "segrefine.data", "segrefine.model", "segrefine.lit_module"},
    "encoders": {"segrefine.decoders", "segrefine.data", "segrefine.model", "segrefine.lit_module"},
    "model.py": {"segrefine.data", "segrefine.lit_module", "segrefine.run"},
    "lit_module.py": {"segrefine.data", "segrefine.run", "segrefine.encoders", "segrefine.decoders"},
    "metrics.py": MODELS | {"segrefine.data"},
    "comparison": MODELS | {"segrefine.run", "segrefine.evaluation", "segrefine.prediction"},
    "labels.py": {"segrefine"},
}


def imported(file: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("segrefine")}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part: str) -> None:
    files = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            assert not any(name == wrong or name.startswith(wrong + ".") for wrong in FORBIDDEN[part]), (file, name)


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = "('torch', 'lightning', 'wandb', 'numpy')"
    program = f"import sys, segrefine, segrefine.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
