"""Run folders as `train.py` leaves them, with counts of our choice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segrefine.compare.contrast import Sample
from segrefine.compare.resampling import Blocks
from segrefine.compare.variants import Variant, group
from segrefine.core.config import read_group
from segrefine.metrics.scores import IMAGE_COUNTS
from segrefine.runs.per_image import write_per_image
from segrefine.runs.read import read_run

CLASSES = ("sky", "road", "car")


def draw_counts(seed: int, images: int, right: float, spread: float = 0.1, hardness: int = 0) -> np.ndarray:
    """(images, len(IMAGE_COUNTS), 3): about the share `right` of the pixels right, which differs by image alike for all
    runs of one `hardness`; what is missed goes to the next class. Regions and boundaries have a tenth of the counts."""
    shared, own = np.random.default_rng((0, hardness)), np.random.default_rng((1, seed))
    truth = shared.integers(200, 1_000, (images, 3))
    shares = (right + shared.normal(0, spread, (images, 1)) + own.normal(0, 0.02, (images, 1))).clip(0, 1)
    hits = own.binomial(truth, shares)
    three = np.stack([hits, truth, hits + np.roll(truth - hits, 1, axis=1)], axis=1)
    counts = np.concatenate([three, *[three // 10] * ((len(IMAGE_COUNTS) - 3) // 3)], axis=1)
    assert counts.shape == (images, len(IMAGE_COUNTS), 3)
    return counts


def write_run(folder: Path, counts: np.ndarray, model: str = "fcn8s", seed: int = 0, **options: Any) -> Path:
    """A finished run of these counts; `options` are put into its config by their dotted names."""
    config: dict[str, Any] = {"model": read_group("model", model), "backbone": read_group("backbone", "resnet18")}
    config |= {"datamodule": read_group("datamodule", "shapes"), "recipe": read_group("recipe", "default")}
    config |= {"seed": seed, "logger": {"csv": True}}
    for name, value in options.items():
        part, _, key = name.partition("__")
        if key:
            config[part][key] = value
        else:
            config[part] = value
    hits, truth, prediction = counts[:, :3].sum(0)
    summary = {"model": model, "backbone": config["backbone"]["name"], "datamodule": "shapes", "split": "test"}
    summary |= {"num_images": len(counts), "seed": seed, "params": 11_000_000, "flops": 600_000_000}
    summary |= {"flops_size": [128, 128], "mIoU": float((hits / np.maximum(truth + prediction - hits, 1)).mean())}
    summary |= {"images_per_second": 40.0, "peak_memory_bytes": 2**30, "val_mIoU": 0.5}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_per_image(folder / "per_image.csv", [f"image_{index}" for index in range(len(counts))], counts, CLASSES)
    rows = [f"{step},{0.3 + seed / 100 + step / 100_000}" for step in (99, 199)]  # trained out
    (folder / "metrics.csv").write_text("\n".join(["step,val/mIoU", *rows]) + "\n")
    return folder


def fake_variants(folder: Path, rights: dict[str, float], seeds: int = 3, images: int = 80) -> list[Variant]:
    """A variant for each model, with its share of right pixels."""
    folders = [
        write_run(folder / f"{model}_{seed}", draw_counts(100 * place + seed, images, right), model, seed)
        for place, (model, right) in enumerate(rights.items())
        for seed in range(seeds)
    ]
    return group([read_run(path) for path in folders])


def still_images(by_seed: np.ndarray, resamples: int = 40_000) -> Sample:
    """Scores of seeds (V, S) of images that vary in nothing."""
    resampled = np.repeat(by_seed[:, :, None], resamples, axis=2)
    blocks = Blocks(tuple(np.arange(100)[:, None]))
    return Sample(tuple(by_seed), tuple(resampled), blocks, (0, 0), (True,) * len(by_seed))
