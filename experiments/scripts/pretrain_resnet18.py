"""Train the ResNet-18 that the runs in scenes/ start from: `pretrain_resnet18.py FILE [STEPS]`, 1,500 steps by default.

The task is classification, so that no decoder has a part in it: which of the seven kinds is the one object of a
generated scene? The scenes have another seed than those of datamodule=shapes, and each is seen once. FILE, a
.safetensors file, has torchvision's key names, without fc, and fits backbone.weights. The script prints its loss, and
at the end the accuracy of each kind on scenes not seen in training.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import normalize

from segrefine.data.shapes.scenes import KINDS, draw_scene
from segrefine.engine.precision import cpu_computes_bfloat16
from segrefine.io.atomic import replacing
from segrefine.models.encoders.base import Encoder

SEED, TRAIN, TEST = 1000, 0, 1  # runs draw their scenes with datamodule.seed=0
BATCH, TEST_SCENES, RATE = 32, 960, 2e-3


class Scenes(IterableDataset[tuple[Tensor, int]]):
    """Scenes with one object each, (3, 128, 128) float32, normalized, and the object's kind."""

    def __init__(self, split: int, count: int) -> None:
        self.split, self.count = split, count

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for index in range(self.count):
            image, label = draw_scene(np.random.default_rng((SEED, self.split, index)), objects=1)
            yield normalize(torch.from_numpy(image).float() / 255, Encoder.mean, Encoder.std), int(label.max()) - 1


def train(steps: int) -> nn.Module:
    """Return the trained network: AdamW, one cycle of the rate (Smith and Topin 2019).

    In bfloat16 autocast if the CPU computes in it, else in float32.
    """
    torch.manual_seed(SEED)
    net = resnet18(num_classes=len(KINDS)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    losses = []
    for step, (images, kinds) in enumerate(DataLoader(Scenes(TRAIN, steps * BATCH), BATCH), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_bfloat16()):
            loss = nn.functional.cross_entropy(net(images.contiguous(memory_format=torch.channels_last)), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    return net


@torch.no_grad()
def score(net: nn.Module) -> Tensor:
    """Return the share of test scenes of each kind that are classified correctly, (7,)."""
    metric = MulticlassAccuracy(len(KINDS), average=None)
    net.eval()
    for images, kinds in DataLoader(Scenes(TEST, TEST_SCENES), BATCH):
        metric.update(net(images), kinds)
    return metric.compute()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    net = train(int(sys.argv[2]) if len(sys.argv) == 3 else 1500)
    for kind, accuracy in zip(KINDS, score(net), strict=True):
        print(f"{kind}: {accuracy:.1%} correct")
    tensors = {key: value.contiguous() for key, value in net.state_dict().items() if not key.startswith("fc.")}
    with replacing(Path(sys.argv[1])) as part:
        save_file(tensors, part)
