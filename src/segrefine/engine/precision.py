"""Choose the device, and the precision that it computes well."""

import logging

import torch

from segrefine.core.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")


def choose_precision(wanted: str | int, accelerator: str, option: str = "precision") -> str:
    """Return `wanted`, or for "auto" bfloat16 autocast if the device computes in it.

    Such devices are recent GPUs and CPUs with AMX or AVX512-BF16. Warns if a CPU has to emulate the requested 16 bits:
    it uses bfloat16 for either kind. UserError if `wanted` is unknown.
    """
    if str(wanted) not in PRECISIONS:
        raise UserError(f"{option}={wanted} is not known.{did_you_mean(str(wanted), PRECISIONS)}")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    computes = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else cpu_computes_bfloat16()
    if wanted == "auto":
        return "bf16-mixed" if computes else "32-true"
    if wanted in ("bf16-mixed", "16-mixed") and not gpu and not computes:
        log.warning(f"{option}={wanted}: this CPU emulates bfloat16, many times slower than {option}=32-true.")
    return str(wanted)


def cpu_computes_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16 products. Other CPUs emulate them, slower than float32."""
    # PyTorch has no public question for this in all the versions we take; where it drops these, float32 is safe.
    questions = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(question() for question in questions if question is not None)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of autocast, or None for float32."""
    types = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    chosen = choose_precision(precision, device.type)
    if chosen not in types:
        raise UserError(f"precision={precision} is not known here.{did_you_mean(precision, types)}")
    return types[chosen]


def choose_device(wanted: str) -> torch.device:
    """`wanted`, or for "auto" the GPU if there is one."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={wanted} should be auto, cpu or cuda.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch finds no CUDA device here. Use device=cpu.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
