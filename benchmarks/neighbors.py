"""How training jobs on one machine slow each other, with OpenMP's waiting threads asleep and spinning.

    python benchmarks/neighbors.py [rounds=3] [steps=12]

Seconds of a step of FCN-8s over ResNet-18, 8 scenes of 128 x 128 in float32, every situation in processes of its own.
The situations take turns, and the median of all rounds counts. Two cores are used, however many there are.

- alone: one job of two threads.
- beside a busy process: the same, while a process computes without end on one of its cores.
- one thread: one job on a core of its own.
- two jobs: two of these, a core each.
"""

import os
import statistics
import subprocess
import sys
import time

POLICIES = {"spinning": {"OMP_WAIT_POLICY": "active"}, "as PyTorch comes": {}, "asleep": {"OMP_WAIT_POLICY": "passive"}}


def work(steps: int) -> None:
    """Print the median seconds of a step."""
    import torch

    from segrefine.models.build import create_model

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    net = create_model("fcn8s", backbone="resnet18", num_classes=8)
    net.lay_out(torch.device("cpu"))
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    images = torch.randn(8, 3, 128, 128).to(memory_format=torch.channels_last)
    labels = torch.randint(8, (8, 128, 128))
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    print(statistics.median(times[2:]))


def start(cores: list[int], policy: dict[str, str], steps: int) -> subprocess.Popen[str]:
    """Start a job with a thread on each of the cores."""
    environment = os.environ | {"OMP_NUM_THREADS": str(len(cores))} | policy
    return subprocess.Popen(
        [sys.executable, __file__, "work", str(steps)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def seconds(jobs: list[subprocess.Popen[str]]) -> float:
    """Return the median step of the slowest job."""
    return max(float(job.communicate()[0]) for job in jobs)


def measure(situation: str, policy: dict[str, str], steps: int, cores: list[int]) -> float:
    """Return the seconds of a step in one situation."""
    if situation in ("one thread", "two jobs"):
        used = cores[:1] if situation == "one thread" else cores
        return seconds([start([core], policy, steps) for core in used])
    neighbor = None
    if situation == "beside a busy process":
        neighbor = subprocess.Popen(
            [sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, cores[:1])
        )
    try:
        return seconds([start(cores, policy, steps)])
    finally:
        if neighbor:
            neighbor.kill()


def main() -> None:
    options = dict(part.split("=") for part in sys.argv[1:])
    rounds, steps = int(options.get("rounds", 3)), int(options.get("steps", 12))
    cores = sorted(os.sched_getaffinity(0))[:2]
    situations = ("alone", "beside a busy process", "one thread", "two jobs")
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for policy, environment in POLICIES.items():
            for situation in situations:
                found.setdefault((policy, situation), []).append(measure(situation, environment, steps, cores))
    print(f"| threads that wait | {' | '.join(situations)} |\n| --- {'| --- ' * len(situations)}|")
    for policy in POLICIES:
        medians = [statistics.median(found[policy, situation]) for situation in situations]
        print(f"| {policy} | {' | '.join(f'{value:.3f} s' for value in medians)} |")


if __name__ == "__main__":
    work(int(sys.argv[2])) if sys.argv[1:2] == ["work"] else main()
