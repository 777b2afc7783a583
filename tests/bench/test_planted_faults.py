"""The faults of benchmarks/planted_faults.py fit the source as it is."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.append(str(CHECKOUT / "benchmarks"))

import planted_faults  # noqa: E402


def test_every_fault_has_one_place_in_the_source_and_tests_that_there_are() -> None:
    _, *faults = planted_faults.read_faults()
    for fault in faults:
        assert (CHECKOUT / "src/segrefine" / fault.file).read_text().count(fault.old) == 1, fault.what
        assert all((CHECKOUT / test.split("::")[0]).exists() for test in fault.tests), fault.what
