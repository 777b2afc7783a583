"""Time networks: images/s, memory, and how close they come to the machine's own rates. Rounds are interleaved."""

import importlib.util
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segrefine.bench.measure import Traffic, clock, copy_rate, matmul_rate, profile_step, render_profile, step_memory
from segrefine.compare.tables import to_markdown
from segrefine.core.errors import UserError, did_you_mean
from segrefine.engine.precision import autocast_dtype, choose_device
from segrefine.io.atomic import write_text
from segrefine.models.build import build_model
from segrefine.models.logits import Logits
from segrefine.models.network import SegmentationModel
from segrefine.runs.environment import describe_environment

log = logging.getLogger(__name__)

STEPS = ("train", "predict")
WARM_UP = 2
"""Steps before timing starts, in which memory is allocated and kernels are chosen."""


@dataclass
class TimedNetwork:
    """A network that trains and predicts as `segrefine train` and `segrefine predict` have it."""

    name: str
    net: nn.Module
    precision: torch.dtype | None
    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-6, fused=True)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.images.device.type, self.precision, enabled=self.precision is not None)

    def train(self) -> None:
        """Run one training step. The loss is in float32.

        The last step's gradients are there until the forward pass is over, as in Lightning's loop.
        """
        self.net.train()
        with self.autocast():
            loss = Logits(self.net, self.images).loss(self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def held_bytes(self) -> int:
        """Return the bytes that stay between steps besides gradients: weights, the optimizer's state, the batch."""
        state = [value for each in self.optimizer.state.values() for value in each.values()]
        kept = [*self.net.parameters(), *self.net.buffers(), *state, self.images, self.labels]
        return sum(tensor.nbytes for tensor in kept)

    def predict(self) -> None:
        """Compute the class maps of the images."""
        self.net.eval()
        with torch.inference_mode(), self.autocast():
            Logits(self.net, self.images).classes()


class Peer(nn.Module):
    """A network of other code, which returns logits or a dict with "out", possibly on a coarser grid."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, K, H, W)."""
        found = self.net(images)
        found = found["out"] if isinstance(found, dict) else found
        if found.shape[-2:] != images.shape[-2:]:  # refinenet-pytorch gives a quarter of the size
            found = F.interpolate(found.float(), images.shape[-2:], mode="bilinear")
        return found


def benchmark(cfg: DictConfig) -> list[dict[str, Any]]:
    """Time what `conf/benchmark.yaml` describes. Print a table and return its rows.

    Raises:
        UserError: an option is invalid, or the peer cannot be loaded.
    """
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    steps = _check_steps(options["steps"])
    if len(options["size"]) != 2:
        raise UserError(f"size={options['size']} should be [height, width].")
    device = choose_device(options["device"])
    torch.manual_seed(0)
    ours = build_model(options["model"], options["backbone"], options["num_classes"])
    name = f"{options['model']['name']}/{options['backbone']['name']}"
    networks = [_timed(name, ours, options["precision"], options["channels_last"], device, options)]
    if options["compile"]:
        ours.compile()
    if options["peer"]:
        peer = load_peer(options["peer"])
        if not isinstance(peer, SegmentationModel):
            peer = Peer(peer)
        layout = options["peer_channels_last"]
        networks.append(_timed(options["peer"], peer, options["peer_precision"], layout, device, options))
    ceilings = {precision: matmul_rate(device, precision) for precision in {network.precision for network in networks}}
    bandwidth = copy_rate(device)
    rows = [row for step in steps for row in compare(networks, step, options["rounds"], ceilings, bandwidth)]
    log.info(render(rows))
    if options["profile"]:
        for step in steps:
            for network in networks:
                shares = profile_step(getattr(network, step), device, ceilings[network.precision])
                log.info(f"\n{network.name}, {step}\n{render_profile(shares[: options['profile']])}")
    if options["output"]:
        about = {"options": options, "environment": describe_environment(), "results": rows}
        write_text(Path(options["output"]).expanduser(), json.dumps(about, indent=1))
    return rows


def _check_steps(given: str | Sequence[str]) -> list[str]:
    steps = [given] if isinstance(given, str) else list(given)
    if not steps:
        raise UserError(f"steps=[] times nothing. Known: {', '.join(STEPS)}.")
    for step in steps:
        if step not in STEPS:
            raise UserError(f"steps={step} is not known.{did_you_mean(step, STEPS)}")
    return steps


def _timed(
    name: str, net: nn.Module, precision: str, channels_last: bool | str, device: torch.device, options: dict[str, Any]
) -> TimedNetwork:
    if channels_last == "auto":
        assert isinstance(net, SegmentationModel)
        net.lay_out(device)
        layout = net.layout
    else:
        layout = torch.channels_last if channels_last else torch.contiguous_format
    size = options["batch_size"], 3, *options["size"]
    images = torch.randn(size, device=device).to(memory_format=layout)
    labels = torch.randint(options["num_classes"], (size[0], *size[2:]), device=device)
    net.to(device, memory_format=layout)  # type: ignore[call-overload]
    return TimedNetwork(name, net, autocast_dtype(precision, device), images, labels)


def load_peer(path: str) -> nn.Module:
    """Return the network that `module:function` or `file.py:function` returns, or raise UserError without one."""
    place, colon, function = path.rpartition(":")
    if not colon:
        raise UserError(f"peer={path} should be module:function or file.py:function.")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location("peer", place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        net = getattr(module, function)()
    except (ImportError, AttributeError, OSError, TypeError) as error:
        raise UserError(f"peer={path}: {error}.") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"peer={path} returned a {type(net).__name__}, not a torch.nn.Module.")
    return net


def compare(
    networks: list[TimedNetwork], step: str, rounds: int, ceilings: dict[torch.dtype | None, float], bandwidth: float
) -> list[dict[str, Any]]:
    """Return a row for each network, whose step is timed in turn with the others'.

    `ceilings` are operations per second of each precision, and `bandwidth` is bytes per second.
    """
    work: list[Callable[[], None]] = [getattr(network, step) for network in networks]
    device = networks[0].images.device
    for _ in range(WARM_UP):
        once = sum(clock(function, device) for function in work)
    log.info(f"{step}: {rounds} rounds, about {rounds * once:.0f} s")
    seconds = [[clock(function, device) for function in work] for _ in range(rounds)]
    rows = []
    for network, function, *times in zip(networks, work, *seconds, strict=True):
        with FlopCounterMode(display=False) as counter, Traffic() as traffic:
            function()
        network.optimizer.zero_grad()  # so that all gradients are made while memory is watched
        count = len(network.images)
        low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        rows.append(
            {
                "network": network.name,
                "step": step,
                "precision": str(network.precision or torch.float32).removeprefix("torch."),
                "images_per_second": count / median,
                "quartiles": [count / high, count / low],
                "memory_bytes": step_memory(function, device),
                "held_bytes": network.held_bytes(),
                "multiply_adds_per_image": counter.get_total_flops() // 2 // count,
                "share_of_matmul_rate": counter.get_total_flops() / median / ceilings[network.precision],
                "share_of_copy_rate": traffic.bytes / median / bandwidth,
            }
        )
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table. The ratio is to the last network of the same step."""
    last = {row["step"]: row["images_per_second"] for row in rows}
    cells = [
        {
            "network": row["network"],
            "step": row["step"],
            "precision": row["precision"],
            "images/s (quartiles)": "{:.3g} ({:.3g} to {:.3g})".format(row["images_per_second"], *row["quartiles"]),
            "memory": f"{row['memory_bytes'] / 2**20:.0f} MiB",
            "G multiply-adds": f"{row['multiply_adds_per_image'] / 1e9:.2f}",
            "of matmul rate": f"{row['share_of_matmul_rate']:.0%}",
            "of copy rate": f"{row['share_of_copy_rate']:.0%}",
            "ratio": f"{row['images_per_second'] / last[row['step']]:.2f}",
        }
        for row in rows
    ]
    return to_markdown(pd.DataFrame(cells)).strip()
