"""Imports point one way: data knows no model, models know no data, decoders no encoders; help imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segrefine

PACKAGE = Path(segrefine.__file__).parent
MODELS = {
    "segrefine.models.network",
    "segrefine.models.encoders",
    "segrefine.models.decoders",
    "segrefine.models.upsampling",
    "segrefine.engine.module",
}
FORBIDDEN = {
    "data": MODELS | {"segrefine.engine.train", "segrefine.engine.evaluate"},
    "decoders": {"segrefine.models.encoders", "segrefine.data", "segrefine.models.network", "segrefine.engine.module"},
    "encoders": {"segrefine.models.decoders", "segrefine.data", "segrefine.models.network", "segrefine.engine.module"},
    "model.py": {"segrefine.data", "segrefine.engine.module", "segrefine.engine.train"},
    "lit_module.py": {
        "segrefine.data",
        "segrefine.engine.train",
        "segrefine.models.encoders",
        "segrefine.models.decoders",
    },
    "metrics.py": MODELS | {"segrefine.data"},
    "comparison": MODELS | {"segrefine.engine.train", "segrefine.engine.evaluate", "segrefine.engine.predict"},
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
    program = f"import sys, segrefine, segrefine.cli.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
