"""Which precision is chosen for which device."""

import pytest
import torch

from segrefine.core.errors import UserError
from segrefine.engine import precision
from segrefine.engine.precision import PRECISIONS, choose_precision, cpu_computes_bfloat16


def device(monkeypatch: pytest.MonkeyPatch, gpu: bool, gpu_bf16: bool, cpu_bf16: bool) -> None:
    """Make PyTorch report these abilities."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or gpu_bf16
    )
    monkeypatch.setattr(precision, "cpu_computes_bfloat16", lambda: cpu_bf16)


@pytest.mark.parametrize(
    ("accelerator", "gpu", "gpu_bf16", "cpu_bf16", "expected"),
    [
        ("auto", True, True, False, "bf16-mixed"),
        ("auto", True, False, True, "32-true"),  # a GPU that would emulate it
        ("gpu", True, True, False, "bf16-mixed"),
        ("cuda", True, False, False, "32-true"),
        ("cpu", True, True, False, "32-true"),
        ("cpu", True, False, True, "bf16-mixed"),
        ("auto", False, False, True, "bf16-mixed"),
        ("auto", False, False, False, "32-true"),
    ],
)
def test_auto_takes_bfloat16_where_the_device_computes_in_it(
    accelerator: str, gpu: bool, gpu_bf16: bool, cpu_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(monkeypatch, gpu, gpu_bf16, cpu_bf16)
    assert choose_precision("auto", accelerator) == expected


@pytest.mark.parametrize("wanted", [name for name in PRECISIONS if name != "auto"])
@pytest.mark.parametrize("able", [True, False])
def test_named_precision_is_kept_on_any_device(wanted: str, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, able, able, able)
    assert choose_precision(wanted, "auto") == wanted


@pytest.mark.parametrize(
    ("wanted", "gpu", "cpu_bf16", "warned"),
    [
        ("bf16-mixed", False, False, True),
        ("bf16-mixed", False, True, False),
        ("bf16-mixed", True, False, False),
        ("16-mixed", False, False, True),
        ("16-mixed", False, True, False),
        ("16-mixed", True, False, False),
        ("32-true", False, False, False),
        ("auto", False, False, False),
    ],
)
def test_emulated_bfloat16_is_warned_of(
    wanted: str,
    gpu: bool,
    cpu_bf16: bool,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device(monkeypatch, gpu, gpu, cpu_bf16)
    choose_precision(wanted, "auto", "trainer.precision")
    assert (f"trainer.precision={wanted}: this CPU emulates bfloat16" in caplog.text) == warned


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("bf16_mixed", "precision=bf16_mixed is not known. Did you mean 'bf16-mixed'"),
        ("bf16", "precision=bf16 is not known. Known: 16-mixed, 32-true, 64-true, auto, bf16-mixed."),
        (8, "precision=8 is not known."),
        ("", "Known: "),
    ],
)
def test_unknown_precision_is_refused_with_the_nearest(wanted: str | int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_precision(wanted, "cpu")
    assert words in str(caught.value)


def test_cpu_ability_is_what_linux_reports() -> None:
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    assert cpu_computes_bfloat16() == bool({"avx512_bf16", "amx_tile"} & set(flags))
