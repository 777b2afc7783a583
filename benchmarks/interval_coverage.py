"""How often 95 % intervals hold the true difference, by simulation: `python benchmarks/interval_coverage.py`.

An image is hard or easy, a seed good or bad, and each seed finds each image easier or harder than another would; from
these follows the share of its pixels that a run gets right. The true difference is that of all images and all seeds
there could be.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from segrefine.compare.scores import score
from segrefine.compare.statistics import Bootstrap
from segrefine.compare.variants import Variant
from segrefine.metrics.segmentation import COUNTS
from segrefine.runs.folder import RunFolder
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary

CLASSES, PIXELS = 4, 1_000
SKILLS = (1.3, 1.0)  # log odds of a pixel, of the two variants
IMAGE_SPREAD = SEED_IMAGE_SPREAD = 0.8  # standard deviations of log odds between images, and of seeds at an image


def draw_truth(rng: np.random.Generator, images: int) -> np.ndarray:
    """Pixels of every class in every image, (images, CLASSES)."""
    return rng.poisson(rng.dirichlet([2, 1, 0.5, 0.3], images) * PIXELS)


def draw_run(
    rng: np.random.Generator, truth: np.ndarray, log_odds: np.ndarray, seed: int = 0, weights: str | None = None
) -> Run:
    """A run that gets every pixel of an image right with the image's odds; what it misses goes to the next class."""
    right = rng.binomial(truth, 1 / (1 + np.exp(-log_odds))[:, None])
    counts = np.stack([right, truth, right + np.roll(truth - right, 1, axis=1)], axis=1)
    names = tuple(map(str, range(len(truth))))
    classes = tuple(map(str, range(CLASSES)))
    about = Summary(
        model="fcn8s",
        backbone="resnet18",
        datamodule="shapes",
        split="val",
        seed=seed,
        weights=weights,
        params=1,
        flops=1,
        mIoU=None,
    )
    return Run(RunFolder(Path()), {}, about, names, classes, COUNTS, np.concatenate([counts, counts], axis=1))


def draw_variants(
    rng: np.random.Generator, images: int, seeds: int, seed_spread: float, same_networks: bool
) -> list[Variant]:
    """Two variants with `SKILLS`, scored on the same images; of the same networks, or each of its own."""
    truth, hardness = draw_truth(rng, images), rng.normal(0, IMAGE_SPREAD, images)
    variants, networks = [], {}
    for skill in SKILLS:
        runs = []
        for seed in range(seeds):
            if not same_networks or seed not in networks:
                networks[seed] = rng.normal(0, seed_spread) + rng.normal(0, SEED_IMAGE_SPREAD, images)
            weights = str(seed) if same_networks else None
            runs.append(draw_run(rng, truth, skill + networks[seed] + hardness, seed=seed, weights=weights))
        variants.append(Variant(str(skill), tuple(runs)))
    return variants


@lru_cache
def true_difference(seed_spread: float, images: int = 20_000) -> float:
    """The difference over all images and seeds: of a large set, averaged over the distribution of the seeds."""
    rng = np.random.default_rng(0)
    truth, hardness = draw_truth(rng, images), rng.normal(0, IMAGE_SPREAD, images)
    at_image = rng.normal(0, SEED_IMAGE_SPREAD, images)
    places = np.linspace(-3, 3, 25) if seed_spread else np.zeros(1)
    weights = np.exp(-(places**2) / 2) / np.exp(-(places**2) / 2).sum()
    means = []
    for skill in SKILLS:
        runs = [draw_run(rng, truth, skill + place * seed_spread + hardness + at_image) for place in places]
        means.append(sum(weight * float(score(run, "mIoU")) for weight, run in zip(weights, runs, strict=True)))
    return means[0] - means[1]


def coverage(
    images: int, seeds: int, seed_spread: float, tries: int, resamples: int = 1_000, same_networks: bool = False
) -> float:
    """Share of simulated comparisons whose 95 % interval holds the true difference."""
    truth, hits = true_difference(seed_spread), 0
    for attempt in range(tries):
        variants = draw_variants(np.random.default_rng((1, attempt)), images, seeds, seed_spread, same_networks)
        found = Bootstrap(resamples, attempt).difference(variants[0], variants[1], "mIoU")
        hits += found.low <= truth <= found.high
    return hits / tries


if __name__ == "__main__":
    print("| images | seeds | spread of the seeds | networks | true difference, points | coverage of 1,000 intervals |")
    print("| --- | --- | --- | --- | --- | --- |")
    for images, seeds, spread, same in (
        *((100, 1, 0.0, False), (100, 2, 0.1, False), (100, 3, 0.0, False), (100, 3, 0.05, False)),
        *((100, 3, 0.1, False), (100, 3, 0.3, False), (30, 3, 0.1, False), (300, 3, 0.1, False), (100, 5, 0.1, False)),
        *((100, 3, 0.1, True), (100, 3, 0.3, True)),
    ):
        share = coverage(images, seeds, spread, 1_000, same_networks=same)
        networks = "the same" if same else "their own"
        points = 100 * true_difference(spread)
        print(f"| {images} | {seeds} | {spread} | {networks} | {points:.1f} | {share:.1%} |", flush=True)
