"""Damaged files by the thousand (`fuzz.py`): each is read, or refused in words, in good time and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
PICTURES = ["jpeg", "png", "tiff", "gif", "bmp", "webp", "ppm"]
OTHERS = ["mat", "caffemodel", "checkpoint", "safetensors", "list"]
FAST, SLOW = 15, 1500  # inputs of a reader


def fuzz(readers: list[str], first: int, count: int, folder: Path) -> None:
    words = [sys.executable, str(FUZZ), ",".join(readers), str(first), str(count), str(folder)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=3000, check=False)
    about = f"{(folder / 'number').read_text()} was the last\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, about  # a crash or a hang
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    print(lines)
    assert [line["reader"] for line in lines] == readers
    assert [line["wrong"] for line in lines] == [0] * len(readers), about
    assert all(line["read"] + line["refused"] == count and line["refused"] > 0 for line in lines), lines
    assert "Traceback" not in result.stderr


def test_some_damaged_files(tmp_path: Path) -> None:
    """In one process: each takes seconds to begin."""
    fuzz([*PICTURES, *OTHERS], 0, FAST, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("reader", [*PICTURES, *OTHERS])
def test_many_damaged_files(reader: str, tmp_path: Path) -> None:
    fuzz([reader], FAST, SLOW, tmp_path)
