"""The site says what is so: what the getting-started page tells to type works, and every file of a run is described."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import NARROW_PROCESS, run_typed
from PIL import Image

from segrefine.runs.folder import RunFolder

CHECKOUT = Path(__file__).parents[1]
DOCS = CHECKOUT / "docs"

TINY = [
    *("datamodule.train_size=8", "datamodule.val_size=4", "datamodule.test_size=10"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "logger=csv"),
]
FEWER = {"seed=0,1": "seed=choice(0)"}
"""A sweep over one value, which names its runs as one over two does."""


@pytest.fixture
def folder(tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are typed, with narrow encoders in their processes too, and two photographs."""
    for name, value in NARROW_PROCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.png"):
        pixels = np.random.default_rng(0).integers(0, 255, (45, 67, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The language and the text of the page's fenced blocks."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def type_line(line: str, folder: Path) -> int:
    """The exit status of a line of the page. pip says what it would install, and needs no network for that."""
    program, *words = shlex.split(line, comments=True)
    if program == "pip":
        dry = ["--dry-run", "--no-deps", "--no-build-isolation"]
        return subprocess.run([sys.executable, "-m", "pip", *words, *dry], cwd=CHECKOUT, check=False).returncode
    assert program == "segrefine"
    return run_typed(folder, program, *(FEWER.get(word, word) for word in words), *(TINY if "train" in words else []))


def test_what_getting_started_says_to_type_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    languages = set()
    for language, text in blocks("getting_started.md"):
        languages.add(language)
        if language == "python":
            exec(compile(text, "getting_started.md", "exec"), {})
        elif language == "bash":
            for line in text.splitlines():
                assert type_line(line, folder) == 0, line
    assert languages == {"bash", "python", "text"}
    assert "FCN" in capsys.readouterr().out
    assert (folder / "comparison/comparison.html").is_file()
    assert len(list((folder / "predicted").glob("*_overlay.png"))) == 2
    page = (DOCS / "run_folder.md").read_text()
    for file in (folder / "first/model-fcn8s_seed-0").rglob("*"):
        if file.is_file():
            assert described(file.relative_to(folder / "first/model-fcn8s_seed-0").as_posix(), page)


def described(file: str, page: str) -> bool:
    """Whether the page names a file of a run, or the folder that it lies in."""
    listed = re.findall(r"`([^`]+)`", page)
    names = [re.escape(name).replace("NUMBER", r"\d+").replace("ID", r".+") for name in listed]
    return any(re.match(rf"{name}{'' if name.endswith('/') else '$'}", file) for name in names)


def test_every_file_of_a_run_is_described() -> None:
    page = (DOCS / "run_folder.md").read_text()
    names = [value for key, value in vars(RunFolder).items() if key.isupper() and isinstance(value, str)]
    assert len(names) > 12
    for name in names:
        assert f"`{name.split('*')[0].removesuffix('offline-run-')}" in page, name
