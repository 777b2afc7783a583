"""What a training step takes in float32, with bfloat16 products inside oneDNN, and under bfloat16 autocast.

    python benchmarks/precision.py [rounds=15] [threads=2]

Median milliseconds of a step of FCN-8s and of RefineNet, 64 wide, over ResNet-18 in channels last, 8 scenes of
128 x 128. The three take turns in one process.
"""

import statistics
import sys
import time

import torch
from torch.backends import mkldnn

from segrefine.models.build import create_model

FORMS = {"float32": ("ieee", False), "oneDNN bfloat16": ("bf16", False), "autocast": ("ieee", True)}


def main() -> None:
    given = dict(part.split("=") for part in sys.argv[1:])
    torch.set_num_threads(int(given.get("threads", "2")))
    torch.manual_seed(0)
    images = torch.randn(8, 3, 128, 128).to(memory_format=torch.channels_last)
    labels = torch.randint(8, (8, 128, 128))
    print(f"| network | {' | '.join(FORMS)} |\n|{' --- |' * (1 + len(FORMS))}")
    for name in ("fcn8s", "refinenet_64"):
        net = create_model(name, backbone="resnet18", num_classes=8).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
        taken: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(2 + int(given.get("rounds", "15"))):
            for form, (products, autocast) in FORMS.items():
                mkldnn.conv.fp32_precision = mkldnn.matmul.fp32_precision = products  # type: ignore[attr-defined]
                started = time.perf_counter()
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits = net(images)
                torch.nn.functional.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                taken[form].append(1000 * (time.perf_counter() - started))
        print(f"| {name} | {' | '.join(f'{statistics.median(times[2:]):.0f}' for times in taken.values())} |")


if __name__ == "__main__":
    main()
