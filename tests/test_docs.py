"""The site says what is so: what the getting-started page tells to type works, and every file of a run is described."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import run_typed
from later import put_off, run_waiting
from PIL import Image

from segrefine.runs.folder import RunFolder

CHECKOUT = Path(__file__).parents[1]
DOCS = CHECKOUT / "docs"

TINY = [
    *("datamodule.train_size=2", "datamodule.val_size=2", "datamodule.test_size=2"),
    *("datamodule.batch_size=2", "datamodule.crop_size=64"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "logger=csv"),
]
FEWER = {"seed=0,1": "seed=choice(0)"}
"""A sweep over one value, which names its runs as one over two does."""


@pytest.fixture
def folder(tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are typed: a folder with two photographs."""
    monkeypatch.chdir(tmp_path)
    put_off(monkeypatch)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.fromarray(np.full((45, 67, 3), 99, np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The language and the text of the page's fenced blocks."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def type_line(line: str, folder: Path) -> int:
    """The exit status of a line of the page. pip says what it would install, for which it needs no network."""
    program, *words = shlex.split(line)
    if program == "pip":
        assert words == ["install", "-e", "."]
        dry = ["install", ".", "--dry-run", "--no-deps", "--no-build-isolation"]  # -e would need a further package
        return subprocess.run([sys.executable, "-m", "pip", *dry], cwd=CHECKOUT, check=False).returncode
    assert program == "segrefine"
    given = [*(FEWER.get(word, word) for word in words), *(TINY if "train" in words else [])]
    return max(run_typed(folder, program, *given), *run_waiting(folder), 0)


def test_what_getting_started_says_to_type_works(folder: Path) -> None:
    languages = set()
    for language, text in blocks("getting_started.md"):
        languages.add(language)
        if language == "python":
            exec(compile(text, "getting_started.md", "exec"), {})
        for line in text.replace("\\\n", "").splitlines() if language == "bash" else []:
            assert type_line(line, folder) == 0, line
    assert languages == {"bash", "python"}
    assert (folder / "comparison/comparison.html").is_file()
    assert len(list((folder / "predicted").glob("*_overlay.png"))) == 2
    names, run = described_files(), folder / "first/model-fcn8s_seed-0"
    for path in run.rglob("*"):
        file = path.relative_to(run).as_posix()
        assert path.is_dir() or any(re.match(name, file) for name in names), file


def described_files() -> list[str]:
    """A pattern for every file and folder that the page of the run folder names."""
    listed = re.findall(r"`([^`]+)`", (DOCS / "run_folder.md").read_text())
    patterns = [re.escape(name).replace("NUMBER", r"\d+").replace("ID", r".+") for name in listed]
    return [pattern if pattern.endswith("/") else f"{pattern}$" for pattern in patterns]


def test_every_name_of_a_run_folder_is_described() -> None:
    page = (DOCS / "run_folder.md").read_text()
    names = [value for key, value in vars(RunFolder).items() if key.isupper() and isinstance(value, str)]
    assert len(names) > 12
    for name in names:
        assert f"`{name.split('offline-run')[0]}" in page, name
