"""How often 95 % intervals hold the truth, and what differences they find.

    python benchmarks/interval_coverage.py [power]      both tables, or that of power alone

An image is hard or easy, a seed good or bad, and each variant and each seed finds each image easier or harder than
another would; from these follows the share of its pixels that a run gets right. In sequences what images have in common
follows an autoregression. The true difference is that of all images and all seeds there could be.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from segrefine.compare.plan import Planner
from segrefine.compare.scores import score, scores
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import Variant
from segrefine.metrics.scores import COUNTS
from segrefine.runs.folder import RunFolder
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary

CLASSES, PIXELS = 4, 1_000
IMAGE_SPREAD = SEED_IMAGE_SPREAD = 0.8  # standard deviations of log odds between images, and of seeds at an image
VARIANT_IMAGE_SPREAD = 0.3  # and of variants at an image


@dataclass(frozen=True)
class World:
    """What is simulated. Spreads are in log odds of a right pixel; 0.1 moves mIoU by 2 points.

    Attributes:
        step: how much better each variant is than the one before.
        wild: the first so many variants have seeds that scatter twice as much.
        correlation: of neighboring images, which are frames of one sequence unless it is None.
        rare: share of the images that hold the last class, whose IoU is compared; None: mIoU, and all hold it.
        at_image: what seeds and variants make of single images, as a multiple of the spreads above.
        same: the variants are the same networks, scored in two ways.
        single: the last so many variants have one seed.
    """

    images: int = 100
    seeds: int = 3
    variants: int = 2
    seed_spread: float = 0.1
    step: float = 0.3
    wild: int = 0
    correlation: float | None = None
    rare: float | None = None
    at_image: float = 1.0
    same: bool = False
    single: int = 0

    @property
    def metric(self) -> str:
        return "mIoU" if self.rare is None else f"IoU:{CLASSES - 1}"

    def spread(self, variant: int) -> float:
        return self.seed_spread * (2 if variant < self.wild else 1)


def draw_truth(rng: np.random.Generator, images: int, rare: float | None) -> np.ndarray:
    """Pixels of every class in every image, (images, CLASSES)."""
    truth = rng.poisson(rng.dirichlet([2, 1, 0.5, 0.3], images) * PIXELS)
    if rare is not None:
        truth[:, -1] *= rng.random(images) < rare
    return truth


def draw_effects(rng: np.random.Generator, world: World, spread: float) -> np.ndarray:
    """(images,) normal with this spread; an autoregression if the world has sequences."""
    drawn = rng.normal(0, 1, world.images)
    if world.correlation:
        for index in range(1, world.images):
            drawn[index] = world.correlation * drawn[index - 1] + drawn[index] * (1 - world.correlation**2) ** 0.5
    return spread * drawn


def draw_run(
    rng: np.random.Generator, truth: np.ndarray, log_odds: np.ndarray, frames: bool, weights: str | None = None
) -> Run:
    """A run that gets every pixel of an image right with the image's odds; what it misses goes to the next class."""
    right = rng.binomial(truth, 1 / (1 + np.exp(-log_odds))[:, None])
    counts = np.stack([right, truth, right + np.roll(truth - right, 1, axis=1)], axis=1)
    names = tuple(f"drive_{index}" for index in range(len(truth)))
    classes = tuple(map(str, range(CLASSES)))
    about = Summary(
        model="fcn8s",
        backbone="resnet18",
        datamodule="camvid",
        split="val",
        seed=0,
        weights=weights,
        params=1,
        flops=1,
        mIoU=None,
    )
    config = {"datamodule": {"kind": "camvid" if frames else "shapes"}}
    return Run(RunFolder(Path()), config, about, names, classes, COUNTS, np.concatenate([counts, counts], axis=1))


def draw_variants(rng: np.random.Generator, world: World) -> list[Variant]:
    """Variants scored on the same images; of the same networks, or each of its own."""
    truth, hardness = draw_truth(rng, world.images, world.rare), draw_effects(rng, world, IMAGE_SPREAD)
    variants, networks = [], {}
    for place in range(world.variants):
        skill = 1 + place * world.step
        runs = []
        at_image = draw_effects(rng, world, world.at_image * VARIANT_IMAGE_SPREAD)
        for seed in range(1 if place >= world.variants - world.single else world.seeds):
            if not world.same or seed not in networks:
                networks[seed] = rng.normal(0, world.spread(place)) + draw_effects(
                    rng, world, world.at_image * SEED_IMAGE_SPREAD
                )
            weights = str(seed) if world.same else None
            log_odds = skill + networks[seed] + hardness + at_image
            runs.append(draw_run(rng, truth, log_odds, world.correlation is not None, weights))
        variants.append(Variant(str(place), tuple(runs)))
    return variants


@lru_cache
def true_score(skill: float, seed_spread: float, rare: float | None, images: int = 20_000) -> float:
    """The score over all images and seeds: of a large set, averaged over the distribution of the seeds."""
    rng = np.random.default_rng(0)
    truth = draw_truth(rng, images, rare)
    at_image = rng.normal(0, (IMAGE_SPREAD**2 + SEED_IMAGE_SPREAD**2 + VARIANT_IMAGE_SPREAD**2) ** 0.5, images)
    places = np.linspace(-3, 3, 13) if seed_spread else np.zeros(1)
    weights = np.exp(-(places**2) / 2) / np.exp(-(places**2) / 2).sum()
    runs = [draw_run(rng, truth, skill + place * seed_spread + at_image, False) for place in places]
    return float(weights @ [score(run, "mIoU" if rare is None else f"IoU:{CLASSES - 1}") for run in runs])


def true_scores(world: World) -> list[float]:
    return [true_score(1 + place * world.step, world.spread(place), world.rare) for place in range(world.variants)]


def coverage(world: World, tries: int, resamples: int = 1_000) -> tuple[float, float]:
    """Share of simulated comparisons of all pairs in which all 95 % intervals hold the truth, and mean half width."""
    truth, hits, widths = true_scores(world), 0, []
    for attempt in range(tries):
        variants = draw_variants(np.random.default_rng((1, attempt)), world)
        places = list(combinations(range(world.variants), 2))
        questions = [Question(variants[one], variants[other], world.metric) for one, other in places]
        found = Bootstrap(variants, world.metric, Settings(resamples, attempt)).differences(questions)
        pairs = zip(places, found, strict=True)
        hits += all(each.low <= truth[one] - truth[other] <= each.high for (one, other), each in pairs)
        widths += [(each.high - each.low) / 2 for each in found]
    return hits / tries, float(np.mean(widths))


FAMILIES = {"one planned pair": 1, "eight with a baseline": 8, "all 36 pairs": 36}
"""How many of nine variants' pairs, those with the first coming first."""


def power(tries: int, seed_spread: float = 0.07, resamples: int = 1_000) -> dict[str, dict[str, float]]:
    """The difference in points that is found in 80 % of simulations: nine variants of 3 seeds, 100 images.

    Images say little but of all networks alike. None differs from another, so the lower end of an interval, turned
    about, is the least difference that would have been found. Beside it what `plan=true` forecasts for these seeds, and
    three other methods: Welch's t-test of the seeds with Holm's first step, a plain hierarchical bootstrap with
    Bonferroni's, and an oracle that knows the standard error of a difference.
    """
    world = World(variants=9, seed_spread=seed_spread, step=0.0, at_image=0.2)
    places = list(combinations(range(9), 2))
    normal = np.abs(np.random.default_rng(0).standard_normal((20_000, 9)) @ _contrasts(places)) / 2**0.5
    needed: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in FAMILIES}
    forecasts: dict[str, list[float]] = defaultdict(list)
    held: dict[str, dict[str, int]] = {name: defaultdict(int) for name in FAMILIES}
    first: list[float] = []
    for attempt in range(tries):
        variants = draw_variants(np.random.default_rng((2, attempt)), world)
        bootstrap = Bootstrap(variants, settings=Settings(resamples, attempt))
        by_seed = [scores(variant.runs, "mIoU") for variant in variants]
        first.append(by_seed[0].mean() - by_seed[1].mean())
        resampled = _resample_seeds(bootstrap, attempt) @ _contrasts(places)
        for name, count in FAMILIES.items():
            questions = [Question(variants[one], variants[other]) for one, other in places[:count]]
            found = bootstrap.differences(questions)
            held[name]["here"] += all(each.low <= 0 <= each.high for each in found)
            needed[name]["here"].append(-found[0].low)
            forecasts[name].append(float(Planner(bootstrap, questions).reach(world.seeds)[0]))
            welch = stats.ttest_ind(by_seed[0], by_seed[1], equal_var=False)
            needed[name]["Welch and Holm"].append(-float(welch.confidence_interval(1 - 0.05 / count).low))
            tails = np.quantile(resampled[:, :count], [0.025 / count, 1 - 0.025 / count], axis=0)
            held[name]["hierarchical"] += bool(((tails[0] <= 0) & (tails[1] >= 0)).all())
            needed[name]["hierarchical"].append(-float(tails[0, 0]))
    rows = {}
    for name, count in FAMILIES.items():
        oracle = (np.quantile(normal[:, :count].max(1), 0.95) + stats.norm.ppf(0.8)) * np.std(first)
        rows[name] = {key: 100 * float(np.quantile(ends, 0.8)) for key, ends in needed[name].items()}
        rows[name] |= {"oracle": 100 * float(oracle), "forecast": 100 * float(np.mean(forecasts[name]))}
        rows[name] |= {f"{key} held": count / tries for key, count in held[name].items()}
        rows[name]["seed"] = 100 * float(np.std(first)) * (3 / 2) ** 0.5
    return rows


def _resample_seeds(bootstrap: Bootstrap, attempt: int) -> np.ndarray:
    """(R, V) mean scores of variants over seeds drawn with replacement, in every resample of the images."""
    rng = np.random.default_rng((3, attempt))
    means = []
    for each in bootstrap.sample("mIoU").resampled:
        drawn = rng.integers(0, len(each), each.shape)
        means.append(np.take_along_axis(each, drawn, axis=0).mean(0))
    return np.stack(means, axis=1)


def _contrasts(places: list[tuple[int, int]]) -> np.ndarray:
    """(V, pairs) matrix that takes scores of variants to differences of pairs."""
    return np.eye(9)[:, [one for one, _ in places]] - np.eye(9)[:, [other for _, other in places]]


WORLDS = {
    "1 seed": World(seeds=1),
    "1 seed, seeds do not vary": World(seeds=1, seed_spread=0.0),
    "2 seeds": World(seeds=2),
    "3 seeds": World(),
    "3 seeds, seeds do not vary": World(seed_spread=0.0),
    "3 seeds, seeds vary much": World(seed_spread=0.3),
    "5 seeds": World(seeds=5),
    "10 seeds": World(seeds=10),
    "30 images": World(images=30),
    "300 images": World(images=300),
    "the same networks": World(same=True),
    "9 variants": World(variants=9, step=0.05),
    "9 variants, 2 seeds": World(variants=9, step=0.05, seeds=2),
    "9 variants, 5 seeds, 30 images": World(variants=9, step=0.05, seeds=5, images=30),
    "9 variants, 3 of them vary twice as much": World(variants=9, step=0.05, wild=3),
    "9 variants, 2 of them with one seed": World(variants=9, step=0.05, single=2),
    "a class in 30 % of the images": World(rare=0.3),
    "frames, correlation 0": World(correlation=0.0),
    "frames, 0.5, 1 seed, seeds do not vary": World(correlation=0.5, seeds=1, seed_spread=0.0),
    "frames, 0.5": World(correlation=0.5),
    "frames, 0.85, 1 seed, seeds do not vary": World(correlation=0.85, seeds=1, seed_spread=0.0),
    "frames, 0.85": World(correlation=0.85),
    "frames, 0.85, seeds vary by 0.05": World(correlation=0.85, seed_spread=0.05),
    "300 frames, 0.85, 1 seed, seeds do not vary": World(images=300, correlation=0.85, seeds=1, seed_spread=0.0),
    "9 variants, frames, 0.85": World(variants=9, step=0.05, correlation=0.85),
}
"""Where nothing else is said: 2 variants, 3 seeds that vary by 0.1, 100 independent images."""

if __name__ == "__main__":
    TRIES = 300
    print("| simulated | all intervals hold | half width, points |\n| --- | --- | --- |")
    for title, world in WORLDS.items() if sys.argv[1:] != ["power"] else ():
        share, width = coverage(world, TRIES)
        print(f"| {title} | {share:.1%} | {100 * width:.1f} |", flush=True)
    columns = ("here", "forecast", "Welch and Holm", "hierarchical", "oracle")
    print(f"\n| nine variants, 3 seeds | {' | '.join(columns)} | all hold, here | hierarchical |")
    print("| --- " * 8 + "|")
    table = power(TRIES)
    for name, row in table.items():
        cells = [f"{row[column]:.1f}" for column in columns] + [
            f"{row[f'{key} held']:.1%}" for key in ("here", "hierarchical")
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nSeeds deviate by {table['all 36 pairs']['seed']:.2f} points.")
