"""Which cure keeps RefineNet's blocks alive: short trainings with each, scored and searched for dead channels.

    python benchmarks/cures.py FILE.csv [seeds=0,1] [steps=400] [weights=ENCODER] [CURE[@RATE][:MODEL] ...]

Without cures, all of TABLE are run. A row trains over ResNet-18, from random weights or from those in ENCODER, on
1,000 generated scenes of 128 x 128, in batches of 4, with AdamW (encoder 1e-3, decay 0.01), a poly schedule, 50 steps
of warm-up and gradients clipped to norm 1; RefineNet is 64 wide. It is scored on 100 scenes of val, which are also what
a channel has to be positive on somewhere. Rows that FILE.csv has are skipped, so a run that was cut off goes on.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from torch import Tensor, nn

from rows import append, read
from segrefine.core.config import read_group
from segrefine.data.build import create_datamodule
from segrefine.data.datamodule import SegmentationDataModule
from segrefine.engine.callbacks.dead_units import find_alive
from segrefine.engine.optim import center_updates, create_optimizer, filters, parameter_groups
from segrefine.engine.recipe import Recipe
from segrefine.metrics.segmentation import SegmentationMetrics
from segrefine.models.build import create_model
from segrefine.models.decoders.refinenet import ChainedResidualPooling
from segrefine.models.logits import Logits
from segrefine.models.network import SegmentationModel

ENCODER_RATE, WARM_UP, BATCH = 1e-3, 50, 4
WIDTHS = dict.fromkeys((4, 8, 16, 32), 64)

FIELDS = ["cure", "model", "rate", "seed", "steps", "mIoU", "block_1", "block_2", "block_3", "block_4", "encoder"]


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What a row changes. `model` and `recipe` are options of segrefine; the others were tried here alone.

    Attributes:
        fan_in: rates of the decoder's weights times min(1, 576 / fan-in) (muP: Yang and Hu 2021).
        epsilon: AdamW's in the decoder (1e-3: DrSleep/light-weight-refinenet, src/train.py).
        leak: slope of the ReLU before the pooling for negative values, which falls to 0 over the training.
        standardized: the decoder's filters with zero mean and a learned deviation (Qiao et al. 2019).
        by_inputs: take from each update of the decoder's filters its part along the mean of their input. Where all
            channels of the input have one mean, `center_updates` does the same.
    """

    model: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    fan_in: bool = False
    epsilon: float | None = None
    leak: float = 0.0
    standardized: bool = False
    by_inputs: bool = False


CENTERED = {"center_updates": "decoder"}
CURES = {
    "none": Cure(),
    "sgd": Cure(recipe={"optimizer": "sgd"}),
    "fan_in": Cure(fan_in=True),
    "zero_residual": Cure(model={"init": "zero_residual"}),
    "zero_mean": Cure(model={"init": "zero_mean"}),
    "release": Cure(model={"init": "release"}),
    "epsilon": Cure(epsilon=1e-3),
    "leak": Cure(leak=0.1),
    "standardized": Cure(standardized=True),
    "norm": Cure(model={"norm": True}),
    "centered": Cure(recipe=CENTERED),
    "centered+zero_mean": Cure(model={"init": "zero_mean"}, recipe=CENTERED),
    "centered+release": Cure(model={"init": "release"}, recipe=CENTERED),
    "centered+fan_in": Cure(recipe=CENTERED, fan_in=True),
    "centered_all": Cure(recipe={"center_updates": "all"}),
    "centered_all+zero_mean": Cure(model={"init": "zero_mean"}, recipe={"center_updates": "all"}),
    "centered_hidden+zero_mean": Cure(model={"init": "zero_mean"}, recipe={"center_updates": "hidden"}),
    "by_inputs+zero_mean": Cure(model={"init": "zero_mean"}, by_inputs=True),
}
NEEDS_REFINENET = {"norm", "leak", "zero_residual"}
"""Cures without a meaning for FCN, which has neither residual branches nor a pooling."""

TABLE = [f"{cure}@0.001:refinenet" for cure in CURES if cure != "sgd"] + [
    f"{cure}@0.001:fcn8s" for cure in ("none", "centered", "centered_all", "centered_all+zero_mean")
]


def build(name: str, cure: Cure, num_classes: int, weights: str | None) -> SegmentationModel:
    """Build the network of a row."""
    options = {"init": "default", "weights": weights} | cure.model
    if not name.startswith("fcn"):
        options["widths"] = WIDTHS
    net = create_model(name, backbone="resnet18", num_classes=num_classes, **options)
    if cure.standardized:
        for module in list(net.decoder.modules()):
            if isinstance(module, nn.Conv2d) and module.weight.any():  # FCN's scores start at zero
                nn.utils.parametrize.register_parametrization(module, "weight", Standardized(module.weight))
    return net


class Standardized(nn.Module):
    """Filters of zero mean and unit deviation, times a gain that is learned.

    The gain starts at the filter's own deviation. From the usual variance of 2 / fan-in, the residual branches of
    RefineNet, which no norm follows, add up to class scores of thousands.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(weight.detach().std((1, 2, 3), keepdim=True))

    def forward(self, weight: Tensor) -> Tensor:
        variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
        return (weight - mean) * (self.gain / (variance + 1e-8).sqrt())


def make_optimizer(net: SegmentationModel, recipe: Recipe, cure: Cure) -> torch.optim.Optimizer:
    """The recipe's optimizer, with the cure's changes."""
    groups = parameter_groups(net, recipe, recipe.lr)
    if cure.fan_in:
        rest = next(group for group in groups if group["name"] == "decoder/weights")
        groups.remove(rest)
        for weight in rest["params"]:
            factor = min(1.0, 576 / weight[0].numel()) if weight.ndim == 4 else 1.0
            groups.append(rest | {"params": [weight], "lr": rest["lr"] * factor})
    for group in groups:
        if cure.epsilon and group["name"].startswith("decoder"):
            group["eps"] = cure.epsilon
    optimizer = create_optimizer(groups, recipe)
    if recipe.center_updates:
        center_updates(optimizer, filters(net, recipe.center_updates))
    if cure.by_inputs:
        center_by_inputs(optimizer, net.decoder)
    return optimizer


def center_by_inputs(optimizer: torch.optim.Optimizer, decoder: nn.Module) -> None:
    """Let no step change what a filter answers to the mean of its input, averaged over about ten batches."""
    layers = [module for module in decoder.modules() if isinstance(module, nn.Conv2d) and module.weight[0].numel() > 1]
    means: dict[nn.Module, Tensor] = {}
    answers: list[Tensor] = []

    def look(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        mean = inputs[0].detach().mean((0, 2, 3))
        means[layer] = torch.lerp(means.get(layer, mean), mean, 0.1)

    def answer(layer: nn.Conv2d) -> Tensor:
        return layer.weight.sum((2, 3)) @ means[layer]

    def before(*_: Any) -> None:
        answers[:] = [answer(layer) for layer in layers]

    @torch.no_grad()
    def after(*_: Any) -> None:
        for layer, old in zip(layers, answers, strict=True):
            mean, area = means[layer], layer.weight[0, 0].numel()
            surplus = (answer(layer) - old) / (area * mean.square().sum() + 1e-12)
            layer.weight.sub_(surplus[:, None, None, None] * mean[:, None, None])

    for layer in layers:
        layer.register_forward_pre_hook(look)
    optimizer.register_step_pre_hook(torch.no_grad()(before))
    optimizer.register_step_post_hook(after)


def set_leak(net: SegmentationModel, slope: float) -> None:
    """Give the ReLU before each pooling a slope for negative values."""
    for module in net.decoder.modules():
        if isinstance(module, ChainedResidualPooling):
            module.relu = nn.LeakyReLU(slope) if slope else nn.ReLU()  # type: ignore[assignment]


Watch = Callable[[int, SegmentationModel, Tensor], None]
"""Called with the step, the network and its images before every step."""


def train(
    net: SegmentationModel, recipe: Recipe, cure: Cure, data: SegmentationDataModule, steps: int, watch: Watch | None
) -> None:
    """Train for a number of steps."""
    optimizer = make_optimizer(net, recipe, cure)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.schedule.factor(steps))
    net.lay_out(torch.device("cpu"))
    net.train()
    step = 0
    while step < steps:
        for batch in data.train_dataloader():
            if step == steps:
                return
            images = net.from_pixels(batch["image"])
            if watch:
                watch(step, net, images)
            if cure.leak:
                set_leak(net, cure.leak * (1 - step / steps))
            optimizer.zero_grad()
            Logits(net, images).loss(batch["label"]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1


@torch.no_grad()
def score(net: SegmentationModel, data: SegmentationDataModule) -> dict[str, float]:
    """Return mIoU of val, and the dead share of each block and of the encoder's worst ReLU, on all of val."""
    if any(isinstance(module.relu, nn.LeakyReLU) for module in _pools(net)):
        set_leak(net, 0.0)
    net.eval()
    metrics = SegmentationMetrics(net.num_classes)
    alive: dict[str, Tensor] = {}
    for batch in data.val_dataloader():
        images = net.from_pixels(batch["image"])
        metrics.update(Logits(net, images).classes(), batch["label"])
        for name, found in find_alive(net, images).items():
            alive[name] = alive.get(name, torch.zeros_like(found)) | found
    dead = {name: 1 - float(found.float().mean()) for name, found in alive.items()}
    blocks = [share for name, share in dead.items() if name.endswith("pool.relu")]
    worst = max(share for name, share in dead.items() if name.startswith("encoder"))
    named = {f"block_{i}": round(share, 3) for i, share in enumerate(blocks, 1)}
    return {"mIoU": round(float(metrics.compute()["mIoU"]), 4), **named, "encoder": round(worst, 3)}


def _pools(net: SegmentationModel) -> list[ChainedResidualPooling]:
    return [module for module in net.decoder.modules() if isinstance(module, ChainedResidualPooling)]


def run(row: dict[str, Any], watch: Watch | None = None, weights: str | None = None) -> dict[str, float]:
    """Train and score one row, over an encoder with `weights` or random ones."""
    cure, seed = CURES[row["cure"]], int(row["seed"])
    seed_everything(seed, verbose=False)
    data = create_datamodule("shapes", run_seed=seed, train_size=1000, val_size=100, batch_size=BATCH)
    data.setup()
    net = build(row["model"], cure, data.num_classes, weights)
    rate = float(row["rate"])
    schedule = {"name": "poly", "warmup_steps": WARM_UP}
    given = {"lr": rate, "encoder_lr_multiplier": ENCODER_RATE / rate, "clip_norm": 1.0, "schedule": schedule}
    plain = {"center_updates": None, "progressive_resizing": 0.0}  # not as the default recipe has them
    recipe = Recipe.from_config(read_group("recipe", "default") | plain | given | cure.recipe)
    train(net, recipe, cure, data, int(row["steps"]), watch)
    return score(net, data)


def parse(arguments: list[str]) -> tuple[list[dict[str, str]], str | None]:
    """Return the rows that a command line asks for, and the encoder's weights."""
    options = dict(part.split("=") for part in arguments if "=" in part)
    rows = []
    for name in [part for part in arguments if "=" not in part] or TABLE:
        name, _, model = name.partition(":")
        cure, _, rate = name.partition("@")
        assert cure in CURES, f"{cure} is none of {', '.join(CURES)}"
        rows.append({"cure": cure, "model": model or "refinenet", "rate": rate or "0.001"})
    seeds = options.get("seeds", "0,1").split(",")
    steps = options.get("steps", "400")
    return [row | {"seed": seed, "steps": steps} for row in rows for seed in seeds], options.get("weights")


def main() -> None:
    file = Path(sys.argv[1])
    done = read(file)
    rows, weights = parse(sys.argv[2:])
    for row in rows:
        if not any(row.items() <= old.items() for old in done):
            append(file, FIELDS, row | run(row, weights=weights))


if __name__ == "__main__":
    main()
