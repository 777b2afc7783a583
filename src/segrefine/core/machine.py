"""Query the machine that a process runs on."""

import os


def available_cores() -> list[int]:
    """Return the CPU cores that this process may use. In a container they can be fewer than the machine has."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
