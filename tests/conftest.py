"""Networks that are built in a moment: weights at random, no time spent on torchvision's classifier of 100 M numbers.

Encoders are shared between tests, so a test that alters one takes a copy.
"""

import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from narrow import NARROW
from torch import nn

import segrefine.models.build
from segrefine.models.build import create_model
from segrefine.models.encoders import create_encoder
from segrefine.models.network import SegmentationModel

Build = Callable[..., Any]

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
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small computations: handing them to several threads takes longer than they do."""
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


def fill(module: nn.Module) -> nn.Module:
    """A module built on the meta device, given memory on the CPU, random weights and batch norm that alters little."""
    module = module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=(1.5 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0, generator=generator).sub_(0.5 if name.endswith(("mean", "bias")) else 0.0)
        else:
            tensor.zero_()
    return module


@lru_cache(maxsize=3)
def random_encoder(
    name: str, needs: tuple[str, ...], classifier_channels: int, timm_name: str | None = None, in_channels: int = 3
) -> nn.Module:
    """`create_encoder` with weights from `fill`, one for all that ask for the same; only its first layer is trained."""
    with torch.device("meta"):
        own = {"classifier_channels": classifier_channels, "timm_name": timm_name}
        encoder = create_encoder(name, needs=needs, in_channels=in_channels, **own)
    encoder = fill(encoder).requires_grad_(False)
    next(encoder.parameters()).requires_grad_(True)
    return encoder


@wraps(create_encoder)
def shared_encoder(
    name: str,
    needs: tuple[str, ...] = (),
    classifier_channels: int = 4096,
    timm_name: str | None = None,
    in_channels: int = 3,
    **others: Any,
) -> nn.Module:
    """Stands in for `create_encoder` and refuses what that refuses."""
    assert not any(others.values())  # other options are left at their defaults
    return random_encoder(name, tuple(needs), classifier_channels, timm_name, in_channels)


@pytest.fixture(scope="session")
def filled() -> Build:
    """Calls a constructor on the meta device and fills what it returns."""

    def build(constructor: Build, *arguments: Any, **options: Any) -> nn.Module:
        with torch.device("meta"):
            module = constructor(*arguments, **options)
        return fill(module)

    return build


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Within a module of tests, encoders of an eighth of their width in this process (`narrow.py`)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, build in NARROW.items():
            patch.setattr(torchvision.models, name, build)
        random_encoder.cache_clear()
        yield
    random_encoder.cache_clear()


NARROW_SMP: dict[str, dict[str, Any]] = {
    "smp_fpn": {"pyramid_channels": 12, "segmentation_channels": 64},
    "smp_unet": {"decoder_channels": [12, 12, 12, 8, 8]},
    "smp_unetplusplus": {"decoder_channels": [12, 12, 12, 8, 8]},
    "smp_deeplabv3plus": {"out_channels": 12, "atrous_rates": [1, 2, 3], "aspp_separable": True, "aspp_dropout": 0.1},
    "smp_pspnet": {"out_channels": 12},
    "smp_upernet": {"decoder_channels": 12},
    "smp_segformer": {"segmentation_channels": 12},
}
"""Arguments of SMP's decoders for few channels."""


@pytest.fixture
def cheap_model(monkeypatch: pytest.MonkeyPatch) -> Build:
    """`create_model` over shared encoders, with narrow layers and no layer that starts at zero."""
    monkeypatch.setattr(segrefine.models.build, "create_encoder", shared_encoder)

    def build(name: str, backbone: str, num_classes: int = 3, **options: Any) -> SegmentationModel:
        narrow = {"widths": {4: 12, 8: 12, 16: 12, 32: 16}} if name.startswith("refinenet") else {}
        narrow |= {"arguments": NARROW_SMP[name]} if name in NARROW_SMP else {}
        narrow |= {"fc_channels": 12} if name.startswith("deconvnet") else {}
        narrow |= {"classifier_channels": 8} if backbone.startswith("vgg") else {}
        narrow |= {"timm_name": "test_convnext"} if backbone == "timm" else {}
        net = create_model(name, backbone, num_classes, **narrow | options)
        for layer in getattr(net.decoder, "score", nn.ModuleDict()).values():
            nn.init.normal_(layer.weight)
        return net.eval()

    return build
