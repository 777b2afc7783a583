"""The share of dead channels: found, logged and warned of."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_train import TINY

from segrefine.core.config import CONFIG_FOLDER
from segrefine.engine.callbacks.dead_units import find_alive, find_frozen
from segrefine.engine.train import train
from segrefine.models.build import create_model
from segrefine.runs.summary import Summary

pytestmark = pytest.mark.usefixtures("narrow")
WIDTHS = dict.fromkeys((4, 8, 16, 32), 12)
SEED = 4


@torch.no_grad()
def test_a_channel_is_alive_if_one_cell_of_one_image_is_positive() -> None:
    net = create_model("refinenet_lw", backbone="resnet18", num_classes=3, widths=WIDTHS).eval()
    for name, parameter in net.encoder.named_parameters():
        if "bn2.bias" in name:
            parameter.sub_(4)
    images = torch.randn(2, 3, 64, 96) * torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)
    alive = find_alive(net, images)
    features = net.encoder(images)
    blocks = {stride: f"encoder.layer{number}.1" for number, stride in enumerate((4, 8, 16, 32), 1)}
    for stride, name in blocks.items():
        expected = [bool((features[stride][:, channel] > 0).sum() > 0) for channel in range(len(alive[name]))]
        assert alive[name].tolist() == expected
    shares = {name: found.float().mean() for name, found in alive.items()}
    assert min(shares.values()) < 1
    assert max(shares.values()) == 1
    each = [find_alive(net, image[None]) for image in images]
    assert any((each[0][name] != each[1][name]).any() for name in alive)  # in one image alone
    assert not any(module._forward_hooks for module in net.modules())


OWN = {"fcn8s": 2, "refinenet": 4, "deeplab_largefov": 2, "segnet": 7, "deconvnet_slim": 3 + 8}
"""ReLUs of fc6 and fc7, before the poolings, or of the encoder's mirror image with what stands before it."""


@pytest.mark.parametrize("name", [*OWN, "fcn_dilated"])
def test_every_network_says_which_relus_it_has(name: str) -> None:
    backbone = "resnet50" if name == "fcn_dilated" else "vgg11"
    net = create_model(name, backbone=backbone, num_classes=3).eval()
    relus = {name: shape.numel() for name, shape in find_alive(net, torch.randn(1, 3, 32, 32)).items()}
    if backbone == "vgg11":
        assert len(relus) == 8 + OWN[name]
    else:
        assert len(relus) == 1 + 3 + 4 + 6 + 3 + 1
        assert "decoder.head.2" in relus


def test_relus_of_frozen_stages_are_none_that_training_killed() -> None:
    net = create_model("fcn8s", backbone="vgg11", num_classes=3)
    assert find_frozen(net) == set()
    for layer in (layer for stage in net.encoder.stages[:3] for layer in stage):
        layer.requires_grad_(False)
    assert find_frozen(net) == {f"encoder.features.{index}" for index in (1, 4, 7, 9)}


def run(folder: Path, *options: str) -> Summary:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        model = ["model=refinenet_lw", "model.widths={4: 12, 8: 12, 16: 12, 32: 12}"]
        cfg = compose("train", overrides=[*TINY, *model, "trainer.max_epochs=1", f"seed={SEED}", *options])
    return train(cfg, folder)


def test_a_run_logs_the_shares_and_warns_of_the_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = create_model("refinenet_lw", backbone="resnet18", num_classes=8, widths=WIDTHS)
    for parameter in net.decoder.parameters():
        parameter.data.abs_()  # over the encoder's maps, which are positive
    net.decoder.blocks[0].adapt[0][0].weight.data[3:] = 0  # 9 of 12 channels
    torch.save(net.state_dict(), tmp_path / "start.pth")
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path / "run", "log_dead_units=true", f"init_from={tmp_path}/start.pth", "recipe.lr=1e-12")
    assert summary.dead_units is not None
    assert summary.dead_units["decoder.blocks.0.pool.relu"] == pytest.approx(0.75)
    assert summary.dead_units["decoder.blocks.3.pool.relu"] == 0
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        logged = [row["dead/decoder.blocks.0.pool.relu"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == [pytest.approx(0.75)]
    assert "decoder.blocks.0.pool.relu 75%" in caplog.text
    assert "blocks.3" not in caplog.text
    assert Summary.read(tmp_path / "run/summary.json").dead_units == summary.dead_units


def test_a_run_that_does_not_look_says_nothing(tmp_path: Path) -> None:
    assert run(tmp_path).dead_units is None
    assert "dead/" not in (tmp_path / "metrics.csv").read_text()
