"""Files for the benchmarks' servers, read back as the data's own labels are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.core.errors import UserError
from segrefine.data.submission import BENCHMARKS, check_benchmark, write_submission


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_what_is_written_decodes_to_what_was_predicted(benchmark: str, tmp_path: Path) -> None:
    code = BENCHMARKS[benchmark]
    labels = np.arange(300, dtype=np.uint8).reshape(15, 20) % code.num_classes
    write_submission(tmp_path / "a.png", labels, benchmark)
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    assert (code.decode(stored, tmp_path / "a.png").numpy() == labels).all()


def test_values_are_the_benchmarks(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [13, 18]], np.uint8)
    stored = {}
    for benchmark in BENCHMARKS:
        write_submission(tmp_path / f"{benchmark}.png", labels, benchmark)
        stored[benchmark] = np.asarray(Image.open(tmp_path / f"{benchmark}.png")).tolist()
    assert stored == {
        "voc": [[0, 1], [13, 18]],
        "cityscapes": [[7, 8], [26, 33]],  # road, sidewalk, car, bicycle
        "ade20k": [[1, 2], [14, 19]],
    }
    picture = Image.open(tmp_path / "voc.png")
    assert picture.mode == "P"
    assert picture.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane


def test_mistakes_are_told_in_words() -> None:
    check_benchmark(None, 3)
    check_benchmark("cityscapes", 19)
    with pytest.raises(UserError, match=r"submission=citiscapes is not known\. Did you mean 'cityscapes'"):
        check_benchmark("citiscapes", 19)
    with pytest.raises(UserError, match="submission=voc is for 21 classes, but the network has 3"):
        check_benchmark("voc", 3)
