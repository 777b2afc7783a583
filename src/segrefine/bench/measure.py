"""Measure what a step needs, and what the machine can do: rates, memory, and where the time goes."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, precision: torch.dtype | None, side: int | None = None, tries: int = 8) -> float:
    """Return the operations per second of square matrix products, the best of several: the limit of this machine.

    `side` is 2048 on a CPU. A GPU needs only some 20 us for that, as long as the start takes, so there it is 8192.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    factors = torch.randn(2, side, side, device=device, dtype=precision or torch.float32)
    best = float("inf")
    for _ in range(tries):
        wait(device)
        started = time.perf_counter()
        factors[0] @ factors[1]
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def copy_rate(device: torch.device, size: int | None = None, tries: int = 8) -> float:
    """Return the bytes read and written per second in copying `size` bytes, the best of several.

    The default is 256 MiB, on a GPU 1 GiB.
    """
    size = size or (2**30 if device.type == "cuda" else 2**28)
    source, target = torch.zeros(2, size, dtype=torch.uint8, device=device)
    best = float("inf")
    for _ in range(tries):
        wait(device)
        started = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and return: what memory would move without caches."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = tree_leaves((args, kwargs, result))
            self.bytes += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
        return result


def step_memory(step: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes that tensors made in a step hold at a time, besides what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def profile_step(
    step: Callable[[], None], device: torch.device, ceiling: float, tries: int = 3
) -> list[dict[str, Any]]:
    """Return where a step's time goes, in a row for each operation, the most expensive first.

    Each row holds the operation's share of the total time. For convolutions and matrix products it also holds the share
    of `ceiling`, operations per second.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    flops: dict[str, int] = {}
    for operation, count in counter.get_flop_counts()["Global"].items():
        kind = _kind(str(operation))
        flops[kind] = flops.get(kind, 0) + count
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(tries):
            step()
        wait(device)
    seconds: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # a GPU's kernels, whose time counts for the operations that started them
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        seconds[_kind(event.key)] = seconds.get(_kind(event.key), 0.0) + taken / 1e6 / tries
    total = sum(seconds.values())
    return [
        {
            "operation": kind,
            "seconds": taken,
            "share": taken / total,
            "share_of_matmul_rate": flops[kind] / taken / ceiling if flops.get(kind) and taken else None,
        }
        for kind, taken in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]


def _kind(operation: str) -> str:
    """Return what an operation does, from its name in the profiler or in the counter of operations."""
    if "convolution" in operation:
        return "convolution, backward" if "backward" in operation else "convolution, forward"
    name = operation.removeprefix("aten::").removeprefix("aten.")
    return "matrix product" if name in ("mm", "addmm", "bmm", "baddbmm") else name


def render_profile(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `profile_step` as a Markdown table."""
    lines = ["| operation | ms | share | of matmul rate |", "| --- " * 4 + "|"]
    for row in rows:
        rate = row["share_of_matmul_rate"]
        reached = "" if rate is None else f"{rate:.0%}"
        lines.append(f"| {row['operation']} | {1000 * row['seconds']:.0f} | {row['share']:.0%} | {reached} |")
    return "\n".join(lines)
