"""Fixtures that many tests need, and commands that run in this process.

PyTorch is imported by what needs it: of the processes of pytest-xdist, the first tests nothing and starts the others.
"""

import gc
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

Build = Callable[..., Any]

COSTS: dict[Any, dict[str, Any]] = {}
"""What `narrow` has measured: of a network and a size of the images."""

TESTS = Path(__file__).parent
NARROW_PROCESS = {
    "SEGREFINE_PLUGINS": "narrow",
    "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
}
"""The environment of a process with narrow encoders (`narrow.py`)."""

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands do: page faults of large networks take seconds

# The cores are shared out between the processes of pytest-xdist, and those that they start. Beside a busy program, run
# one process with OMP_NUM_THREADS=1: two threads that wait for each other are tens of times slower there.
SHARE = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
THREADS = max(min(SHARE, int(os.environ.get("OMP_NUM_THREADS") or SHARE)), 1)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before PyTorch is imported, which reads it

os.fsync = lambda number: None  # thousands of files; no test switches the machine off

yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values sooner: Hydra reads hundreds of files


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests stay to the end: Python need not look through them for garbage again and again, which takes a
    tenth of the time of all tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _parsed_once() -> Iterator[None]:
    """Tests compose the same configs hundreds of times: a file is read where it is new or changed."""
    import omegaconf
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    load, known = FileConfigSource.load_config, {}

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(self.path, config_path).with_suffix(".yaml")
        if not file.is_file():
            return load(self, config_path)
        state = file.stat()
        key = (self.path, self.provider, config_path, state.st_mtime_ns, state.st_ino, state.st_size)
        if key not in known:
            known[key] = load(self, config_path)
        return replace(known[key], config=deepcopy(known[key].config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load_config)
        parse = lru_cache(maxsize=None)(omegaconf.grammar_parser.parse)
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", parse)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or among others."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small computations: handing them to several threads takes longer than they do."""
    import torch

    torch.set_num_threads(1)
    yield
    torch.set_num_threads(THREADS)


class Typed(NamedTuple):
    """What a command did: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


TypeIn = Callable[..., Typed]


@contextmanager
def as_typed(folder: Path, script: str, *arguments: str) -> Iterator[None]:
    """What is typed in `folder`: the arguments, the working directory, and afterwards the log as it was before."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, *arguments])
            if "hydra.mode" not in " ".join(arguments):  # to see this, Hydra composes everything once more
                patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
            patch.chdir(folder)
            yield
    finally:
        root.handlers[:], root.level = before  # Hydra sets up its own


def run_typed(folder: Path, script: str, *arguments: str) -> int:
    """The exit status of `script`, "train.py" or a module of python -m, run in this process as if typed in `folder`: a
    new one takes seconds to import everything."""
    try:
        with as_typed(folder, script, *arguments):
            if script.endswith(".py"):
                runpy.run_path(str(Path(__file__).parents[1] / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.fixture
def type_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> TypeIn:
    """Calls `type_in(script, *arguments)` as if typed in `tmp_path` (`run_typed`)."""

    def command(script: str, *arguments: str) -> Typed:
        capsys.readouterr()
        return Typed(run_typed(tmp_path, script, *arguments), *capsys.readouterr())

    return command


@pytest.fixture
def at_work() -> Iterator[Callable[[Path], None]]:
    """Calls `at_work(folder)`, after which another process is at work on the run in `folder`, until the test ends."""
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with ExitStack() as stack:

        def start(folder: Path) -> None:
            command = [sys.executable, "-c", program, str(folder / ".lock")]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
            assert process.stdout is not None
            process.stdout.readline()

        yield start


@pytest.fixture(scope="session")
def filled() -> Build:
    """Calls a constructor on the meta device and fills what it returns."""
    import torch
    from networks import fill

    def build(constructor: Build, *arguments: Any, **options: Any) -> Any:
        with torch.device("meta"):
            module = constructor(*arguments, **options)
        return fill(module)

    return build


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Within a module of tests, encoders of an eighth of their width in this process (`narrow.py`).

    The cost of a network, which takes a third of a second, is measured once.
    """
    import torchvision
    from narrow import NARROW
    from networks import random_encoder

    from segrefine.models.cost import measure_cost

    def cost(net: Any, size: Any) -> dict[str, Any]:
        key = repr(net), repr(net.decoder.options), tuple(net.encoder.scales), tuple(size)
        if key not in COSTS:
            COSTS[key] = measure_cost(net, size)
        return dict(COSTS[key])

    with pytest.MonkeyPatch.context() as patch:
        for name, build in NARROW.items():
            patch.setattr(torchvision.models, name, build)
        for command in ("train", "evaluate"):
            patch.setattr(f"segrefine.engine.{command}.measure_cost", cost)
        random_encoder.cache_clear()
        yield
    random_encoder.cache_clear()


@pytest.fixture
def cheap_model(monkeypatch: pytest.MonkeyPatch) -> Build:
    """`create_model` over shared encoders, with narrow layers and no layer that starts at zero."""
    from networks import build_cheap, shared_encoder

    import segrefine.models.build

    monkeypatch.setattr(segrefine.models.build, "create_encoder", shared_encoder)
    return build_cheap
