"""Measure what a step needs, and what the machine can do: rates, memory, and where the time goes."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from segrefine.compare.tables import new_table, to_markdown

PROFILED = 3
"""Steps that a profile is the mean of."""


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a step takes, until a GPU has finished its work."""
    wait(device)
    started = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - started


def matmul_rate(device: torch.device, precision: torch.dtype | None, side: int | None = None, tries: int = 8) -> float:
    """Return the operations per second of square matrix products, the best of several: the limit of this machine.

    `side` is 2048 on a CPU. A GPU needs only some 20 us for that, as long as the start takes, so there it is 8192.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    factors = torch.randn(2, side, side, device=device, dtype=precision or torch.float32)
    return 2 * side**3 / min(clock(lambda: factors[0] @ factors[1], device) for _ in range(tries))


def copy_rate(device: torch.device, size: int | None = None, tries: int = 8) -> float:
    """Return the bytes read and written per second in copying `size` (256 MiB, on a GPU 1 GiB), the best of several."""
    size = size or (2**30 if device.type == "cuda" else 2**28)
    source, target = torch.zeros(2, size, dtype=torch.uint8, device=device)
    return 2 * size / min(clock(lambda: target.copy_(source), device) for _ in range(tries))


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
    """Return the most bytes that tensors made in a step hold at a time, besides what was there before.

    There are two steps, since the second begins with what the first left, such as gradients. On a CPU nothing that was
    there before may be freed in them: PyTorch's profiler does not know its size.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def profile_step(step: Callable[[], None], device: torch.device, ceiling: float) -> list[dict[str, Any]]:
    """Return where a step's time goes, in a row for each operation, the most expensive first.

    Each row holds the operation's share of the total time. For convolutions and matrix products it also holds the share
    of `ceiling`, operations per second.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    flops = defaultdict[str, int](int)
    for operation, count in counter.get_flop_counts()["Global"].items():
        flops[_kind(str(operation))] += count
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            step()
        wait(device)
    seconds = defaultdict[str, float](float)
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:  # the time of a GPU's kernels counts for what started them
            taken = event.self_device_time_total if cuda else event.self_cpu_time_total
            seconds[_kind(event.key)] += taken / 1e6 / PROFILED
    total = sum(seconds.values())
    return [
        {
            "operation": kind,
            "seconds": taken,
            "share": taken / total,
            "share_of_matmul_rate": flops[kind] / taken / ceiling if flops[kind] and taken else None,
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
    rates = ["" if (rate := row["share_of_matmul_rate"]) is None else f"{rate:.0%}" for row in rows]
    cells = [
        (row["operation"], f"{1000 * row['seconds']:.0f}", f"{row['share']:.0%}", rate)
        for row, rate in zip(rows, rates, strict=True)
    ]
    return to_markdown(new_table(("operation", "ms", "share", "of matmul rate"), cells)).strip()
