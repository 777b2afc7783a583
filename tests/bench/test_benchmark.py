"""`python -m segrefine.benchmark` on a network of a moment, with a peer beside it."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from segrefine.bench.benchmark import STEPS, TimedNetwork, benchmark, compare, load_peer
from segrefine.bench.measure import Traffic, copy_rate, matmul_rate, step_memory
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.cost import count_multiply_adds

pytestmark = pytest.mark.usefixtures("narrow", "quick_rates")

TINY = ["model=refinenet_lw", "model.widths={4:8,8:8,16:8,32:8}", "size=[64,96]", "batch_size=2", "rounds=2"]
PEER = """
import torch

class Peer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 21, 3, stride=4)

    def forward(self, images):
        return {"out": self.layer(images)}
"""


@pytest.fixture(scope="module")
def quick_rates() -> Iterator[None]:
    """Rates of the machine from small products and copies, which take milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segrefine.bench.benchmark.matmul_rate", partial(matmul_rate, side=512, tries=3))
        patch.setattr("segrefine.bench.benchmark.copy_rate", partial(copy_rate, size=2**24, tries=3))
        yield


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose("benchmark", overrides=[*TINY, "device=cpu", *overrides])


def test_ours_and_a_peer_are_timed_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "peer.py").write_text(PEER)
    output = tmp_path / "results" / "speed.json"
    with caplog.at_level("INFO"):
        rows = benchmark(config(f"peer={tmp_path}/peer.py:Peer", f"output={output}", "precision=32-true"))
    assert [(row["step"], row["network"].rpartition(":")[2]) for row in rows] == [
        *(("train", "refinenet_lw/resnet18"), ("train", "Peer")),
        *(("predict", "refinenet_lw/resnet18"), ("predict", "Peer")),
    ]
    for row in rows:
        assert row["quartiles"][0] <= row["images_per_second"] <= row["quartiles"][1]
        assert row["memory_bytes"] > 0
        assert row["held_bytes"] > 0
        assert 0 < row["share_of_matmul_rate"] < 1
        assert row["share_of_copy_rate"] > 0
    net = create_model("refinenet_lw", "resnet18", widths={4: 8, 8: 8, 16: 8, 32: 8})
    assert rows[2]["multiply_adds_per_image"] == count_multiply_adds(net, (64, 96))
    first_layer = 64 * 3 * 7 * 7 * 32 * 48  # in the backward pass it gives no gradient of its input
    assert rows[0]["multiply_adds_per_image"] == 3 * rows[2]["multiply_adds_per_image"] - first_layer
    weights = sum(weight.nbytes for weight in net.parameters())
    batch = 2 * 64 * 96 * (3 * 4 + 8)  # images in float32, labels in int64
    beside = rows[0]["held_bytes"] - 3 * weights - batch  # weights and AdamW's two moments
    assert 0 <= beside < 0.01 * weights  # batch norm's statistics, and a step count for each tensor
    assert rows[3]["multiply_adds_per_image"] == 21 * 3 * 9 * 16 * 24
    assert rows[0]["memory_bytes"] > rows[2]["memory_bytes"]
    about = json.loads(output.read_text())
    assert about["results"] == rows
    assert "| refinenet_lw/resnet18 | train | float32 |" in caplog.text


def test_memory_of_a_step_is_the_most_that_its_tensors_hold_at_a_time() -> None:
    def step() -> None:
        for _ in range(3):
            first = torch.zeros(1000, 1000)
            second = first + 1
            del first, second

    assert step_memory(step, torch.device("cpu")) == pytest.approx(8e6, rel=0.01)


class Heavy(nn.Module):
    """A million weights that leave next to no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.weights = nn.Parameter(torch.ones(1000, 1000))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images) * self.weights.mean()


def test_memory_of_a_training_step_holds_the_gradients() -> None:
    network = TimedNetwork("heavy", Heavy(), None, torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
    train, predict = (compare([network], step, 1, {None: 1.0}, 1.0)[0]["memory_bytes"] for step in STEPS)
    assert train == pytest.approx(4e6, rel=0.02)  # those of the step before go as those of this one come
    assert predict < 1e5


def test_memory_of_a_training_step_holds_gradients_and_maps_at_once() -> None:
    """The gradients of the step before are there until the forward pass is over."""

    class Both(Heavy):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = images.repeat(1, 1, 100, 100)
            return super().forward(images) + self.conv(maps).mean((2, 3), keepdim=True)

    found = []
    for trained in (True, False):
        net = Both()
        net.weights.requires_grad_(trained)
        network = TimedNetwork("", net, None, torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
        found.append(compare([network], "train", 1, {None: 1.0}, 1.0)[0]["memory_bytes"])
    assert found[0] - found[1] == pytest.approx(4e6, rel=0.02)


def test_the_machines_rate_is_that_of_its_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr("segrefine.bench.measure.clock", lambda step, device: next(seconds))
    assert matmul_rate(torch.device("cpu"), None, side=10, tries=3) == 2 * 10**3 / 2.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["steps=[tain]"], "steps=tain is not known. Did you mean 'train'"),
        (["steps=[]"], "steps=[] times nothing. Known: train, predict."),
        (["peer=nothing"], "peer=nothing should be module:function"),
        (["peer=nowhere.at.all:net"], "peer=nowhere.at.all:net: No module named 'nowhere'"),
        (["peer=math:pi2"], "peer=math:pi2: module 'math' has no attribute 'pi2'"),
        (["peer=collections:OrderedDict"], "returned a OrderedDict, not a torch.nn.Module"),
        (["device=gpu"], "device=gpu should be auto, cpu or cuda"),
    ],
)
def test_mistakes_are_told_in_words(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        benchmark(config(*overrides))
    assert words in str(caught.value)


def test_a_peer_may_come_from_an_installed_package() -> None:
    assert isinstance(load_peer("torchvision.models:squeezenet1_1"), torch.nn.Module)


def test_traffic_is_what_operations_take_in_and_give_out() -> None:
    a, b = torch.zeros(10, 20), torch.zeros(20, 5)
    with Traffic() as traffic:
        (a @ b).t()  # a view moves nothing
    assert traffic.bytes == 4 * (200 + 100 + 50)


def test_the_profile_says_where_the_time_goes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        benchmark(config("profile=4", "precision=32-true"))
    tables = [text for text in caplog.messages if "| operation |" in text]
    assert len(tables) == len(STEPS)
    assert "| convolution, backward |" in tables[0]
    assert "convolution, backward" not in tables[1]
    for table in tables:
        rows = [line.split(" | ") for line in table.partition("| --- | --- | --- | --- |\n")[2].splitlines()]
        assert len(rows) == 4
        shares = [float(row[2].strip("%")) for row in rows]
        assert shares == sorted(shares, reverse=True)
        assert 10 < sum(shares) <= 101
        forward = next(row for row in rows if "convolution, forward" in row[0])
        assert 0 < float(forward[3].strip("% |")) < 100
