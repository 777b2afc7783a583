"""The package as others install it: from a wheel, in an environment of its own, without the checkout."""

import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary

CHECKOUT = Path(__file__).parents[1]


def command(folder: Path, *words: str | Path) -> str:
    """What a command printed, run in `folder` with nothing of the checkout in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command(CHECKOUT, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_is_small_and_holds_the_package_and_its_launcher_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 1_000_000
    assert {"segrefine/py.typed", "segrefine/conf/train.yaml", "segrefine/compare/page.html"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"segrefine", "hydra_plugins", names[-1].split("/")[0]}
    assert [name for name in names if "hydra_plugins" in name] == ["hydra_plugins/segrefine_launcher.py"]
    assert not any("experiment" in name for name in names)


TYPED = """
import runpy, sys
import segrefine

print(segrefine.__file__)
script, *lines = sys.argv[1:]
for line in lines:
    sys.argv = [script, *line.split()]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, ended.code
"""
"""Runs an installed command with the words of each line, and imports everything once."""


def test_an_installed_command_trains_and_predicts_in_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    """The packages that segrefine needs are those of this environment; segrefine itself is the wheel's."""
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text("\n".join(site.getsitepackages()))
    python, segrefine = environment / "bin/python", environment / "bin/segrefine"
    command(empty, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert "train" in command(empty, segrefine, "--help")

    run = RunFolder(empty / "run")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(empty / "photo.png")
    sizes = "datamodule.train_size=4 datamodule.val_size=4 datamodule.test_size=4 datamodule.batch_size=4"
    train = f"train trainer=debug hydra.run.dir=run logger=csv {sizes}"
    predict = f"predict checkpoint={run.best} input=photo.png output=out"
    place, *_ = command(empty, python, "-c", TYPED, segrefine, train, predict).splitlines()
    assert Path(place).is_relative_to(packages)
    assert Summary.read(run.summary).num_images == 4
    assert np.asarray(Image.open(empty / "out/photo_label.png")).shape == (40, 60)
    assert {path.name for path in empty.iterdir()} == {"run", "photo.png", "out"}
