"""`docs/make_readme_picture.py`: a typical image, found by sorting by hand, and a file that README can carry."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import CLASSES, draw_counts, write_run
from matplotlib.figure import Figure
from PIL import Image

from segrefine.runs.read import Run, read_run


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[1] / "docs/make_readme_picture.py"))


@pytest.mark.parametrize("images", [1, 4, 7])
def test_the_typical_image_is_the_median_over_both_runs(images: int, script: dict[str, Any], tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / model, draw_counts(place, images, 0.8), model)
        for place, model in enumerate(("fcn8s", "refinenet"))
    ]
    runs = [read_run(folder) for folder in folders]

    def mean_iou(run: Run, image: int) -> float:
        hits, truth, predicted = run.rows()[image].astype(float)
        return float(np.mean([hits[k] / (truth[k] + predicted[k] - hits[k]) for k in range(len(CLASSES))]))

    ranked = sorted(range(images), key=lambda image: sum(mean_iou(run, image) for run in runs))
    assert script["typical_image"](runs) == runs[0].images[ranked[(images - 1) // 2]]


def test_the_file_is_small_and_the_plot_names_the_decoders(script: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / f"{model}{seed}", draw_counts(seed, 20, 0.8), model, seed))
        for model in ("fcn8s", "refinenet_lw")
        for seed in range(2)
    ]
    figure = Figure(figsize=(9, 1.5))
    axis, noise = figure.subplots(1, 2)
    script["draw_plot"](axis, runs)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["FCN-8s", "Light-Weight RefineNet"]
    noise.imshow(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    script["save"](figure, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size < 300_000
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.width >= 900
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
