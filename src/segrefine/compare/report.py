"""Run `segrefine compare`: turn finished runs into tables, statistics, plots and a page, all in one folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from segrefine.compare import tables
from segrefine.compare.claims import write_claims
from segrefine.compare.contrast import ONE_SEED
from segrefine.compare.difference import Difference
from segrefine.compare.figures import as_svg, save_figure
from segrefine.compare.names import name_runs
from segrefine.compare.page import Page, write_page
from segrefine.compare.pictures import Pictures, choose_pictures
from segrefine.compare.plan import Plan, Planner
from segrefine.compare.plots import accuracy_and_flops, difference_bars, draw_all
from segrefine.compare.ranking import answer, rank_variants
from segrefine.compare.scores import CLASS, check_metric
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import STILL_LEARNING, Variant, find_variant, group
from segrefine.core.errors import UserError, listing
from segrefine.io.atomic import write_text
from segrefine.runs.read import Run, find_runs, read_run
from segrefine.runs.wandb import download_runs, log_report

log = logging.getLogger(__name__)

# Of the plots on the page. Differences are drawn there by a script.
TITLES = {
    "learning_curves": "Learning curves",
    "accuracy_and_cost": "Accuracy and cost",
    "regions": "Near boundaries, and by size",
    "classes": "Classes",
}


@dataclass(frozen=True)
class Comparison:
    """Variants compared in one score, and the results."""

    variants: Sequence[Variant]
    metric: str
    baseline: str | None
    bootstrap: Bootstrap
    found: Sequence[Difference]  # for every requested pair
    by_class: Sequence[Difference]  # the same for the IoU of every class
    plans: Sequence[Plan]  # what more seeds would find; empty unless asked for


def compare(cfg: DictConfig) -> None:
    """Compare runs, or regenerate the verdicts of claims, as `conf/compare.yaml` says."""
    length = None if cfg.block_length == "auto" else cfg.block_length
    settings = Settings(cfg.resamples, block_length=length, equivalence=cfg.equivalence, plan=cfg.plan)
    if cfg.claims is not None:
        options = dict.fromkeys(("runs", "wandb", "output", "baseline", "labels"))
        options |= {"metric": "mIoU", "plan": False, "wandb_report": False}
        if given := [name for name, default in options.items() if cfg[name] != default]:
            raise UserError(f"claims={cfg.claims} writes beside that file: remove {given[0]}=.")
        write_claims(Path(cfg.claims).expanduser(), settings)
        return
    if cfg.output is None:
        raise UserError("Give output=DIR, the folder for the comparison.")
    if (not cfg.runs) == (cfg.wandb is None):
        raise UserError("Give runs=DIR, a list of folders or a glob; or wandb=ENTITY/PROJECT.")
    output = Path(cfg.output).expanduser()
    if cfg.wandb is None:
        runs = find_runs(cfg.runs)
    else:
        entity, project, wandb_group = (*str(cfg.wandb).split("/", 2), "", "")[:3]
        folders = download_runs(f"{entity}/{project}", output / "wandb", wandb_group or None)
        runs = [read_run(folder) for folder in folders]
    written = compare_runs(runs, output, cfg.metric, cfg.baseline, cfg.labels, settings)
    if cfg.wandb_report:
        log_report(output, written, "/".join(cfg.wandb.split("/")[:2]) if cfg.wandb else "segrefine")


def compare_runs(
    runs: Sequence[Run],
    output: Path,
    metric: str = "mIoU",
    baseline: str | None = None,
    labels: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> dict[str, pd.DataFrame]:
    """Compare finished runs, as read by `segrefine.runs.read.find_runs`, and write the report to the folder `output`.

    Args:
        runs: trained runs or evaluations, all of the same images and classes.
        output: the folder for the tables, the plots and the page.
        metric: the score to compare, such as `mIoU`, `boundary_IoU`, `worst_10`, `trimap_2` or `IoU:CLASS`.
        baseline: the variant to compare all others with; None for every pair.
        labels: names of variants -> names to give them instead.
        settings: how intervals and p-values are computed.

    Returns:
        The tables `variants`, `differences`, `classes`, `class_differences` and, if asked for, `plan`, as text.

    Raises:
        UserError: the runs cannot be compared, or there is no such metric or baseline.
    """
    variants = group(runs, labels)
    for run in runs:
        check_metric(metric, run)
    return write_report(output, analyze(variants, metric, baseline, settings or Settings()))


def choose_pairs(variants: Sequence[Variant], baseline: str | None) -> list[tuple[Variant, Variant]]:
    """Pair every variant with the baseline, or every two, the later one first."""
    if baseline is None:
        return [(one, other) for other, one in combinations(variants, 2)]
    other = find_variant(variants, baseline)
    return [(one, other) for one in variants if one is not other]


def analyze(variants: Sequence[Variant], metric: str, baseline: str | None, settings: Settings) -> Comparison:
    """Compute every requested difference."""
    pairs, bootstrap = choose_pairs(variants, baseline), Bootstrap(variants, metric, settings)
    questions = [Question(*pair, metric) for pair in pairs]
    planner = Planner(bootstrap, questions)
    found = planner.seeds_needed(bootstrap.differences(questions))
    classes = variants[0].runs[0].classes
    by_class = bootstrap.differences([Question(*pair, f"{CLASS}{name}") for pair in pairs for name in classes])
    plans = planner.plan(found) if settings.plan else []
    return Comparison(variants, metric, baseline, bootstrap, found, by_class, plans)


def write_report(output: Path, comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Write tables, plots and `comparison.html` to the folder `output`. Return the tables by name."""
    variants, found = comparison.variants, comparison.found
    written = {
        "variants": tables.overview(variants),
        "differences": tables.differences(found),
        "classes": tables.per_class(variants),
        "class_differences": tables.differences(comparison.by_class),
    }
    if comparison.plans:
        written["plan"] = tables.plans(comparison.plans)
    figures = draw_all(variants, comparison.metric, comparison.bootstrap)
    if found:
        figures["differences"] = difference_bars(found)
    for name, table in written.items():
        write_table(output / name, table)
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}.png")
    log.info("choosing the images in which the variants differ most")
    pictures, remarks = choose_pictures(variants)
    plots = {title: as_svg(figures[name]) for name, title in TITLES.items() if name in figures}
    page = make_page(comparison, written, plots, pictures)
    write_page(output / "comparison.html", replace(page, notes=[*page.notes, *remarks]))
    log.info(tables.to_markdown(written["variants"]))
    for difference in found:
        log.info(f"{difference.one} against {difference.other}, {comparison.metric}: {difference.verdict}")
    if "plan" in written:
        log.info(tables.to_markdown(written["plan"]))
    log.info(" ".join(page.answer))
    log.info(f"everything is in {output}; open {output / 'comparison.html'} in a browser")
    return written


def make_page(
    comparison: Comparison, written: Mapping[str, pd.DataFrame], plots: Mapping[str, str], pictures: Pictures | None
) -> Page:
    """Assemble the page, the answer first."""
    variants, metric, found = comparison.variants, comparison.metric, comparison.found
    ranking = rank_variants(comparison.bootstrap, metric, found)
    count, summary = len(variants), variants[0].summary
    details = {
        "Scores and costs": written["variants"],
        f"Differences in {metric}, points": written["differences"],
        "What more seeds would show, points": written.get("plan"),
        "IoU of each class": written["classes"],
        "Differences by class, points": written["class_differences"],
    }
    return Page(
        title=f"{metric} of {count} variant{'s' * (count > 1)} on {summary.split} of {summary.datamodule}",
        answer=[*answer(ranking, metric, found, comparison.baseline), *_caution(comparison)],
        shared=name_runs([run for variant in variants for run in variant.runs]).shared,
        ranking=ranking,
        front=as_svg(accuracy_and_flops([one.variant for one in ranking], metric, comparison.bootstrap)),
        differences=found,
        plots=plots,
        pictures=pictures,
        tables={title: table for title, table in details.items() if table is not None and len(table)},
        notes=explain(variants, found, comparison.bootstrap),
    )


def _caution(comparison: Comparison) -> list[str]:
    """Return sentences on what limits the answer."""
    blocks = comparison.bootstrap.blocks
    learning = [variant.label for variant in comparison.variants if variant.still_learning]
    sentences = []
    if blocks.length > 1:
        sentences.append(
            f"The {blocks.count} images are frames of sequences, worth about {blocks.effective:.0f} independent "
            "images. The result says nothing about other sequences."
        )
    if learning:
        who = "All of them" if len(learning) == len(comparison.variants) else listing(learning)
        sentences.append(f"{who} still improved when training ended, so longer training may change the ranking.")
    return sentences


def explain(variants: Sequence[Variant], found: Sequence[Difference], bootstrap: Bootstrap) -> list[str]:
    """Return notes that a reader needs to interpret the numbers."""
    first, settings = variants[0], bootstrap.settings
    several = any(len(variant.runs) > 1 for variant in variants)
    family = f"all {len(found)} pairs" if len(found) > 1 else "the one pair"
    return [
        f"Scores of {len(first.runs[0].images)} images of {first.summary.split} of {first.summary.datamodule}"
        + (", with mean and standard deviation over the seeds." if several else "."),
        f"Differences have 95 % intervals that hold together for {family} of a table. They come from "
        f"{settings.resamples} resamples of the images, the same for all variants"
        + (", and from the variance between seeds" if several else "")
        + ". Verdicts follow from these intervals, and p is below 0.05 if the interval excludes zero. In plots, the "
        "interval of a score is of that score alone.",
        f"Practically equal: the whole interval lies within {settings.equivalence:g} points of zero. "
        "P(above): the share of pairs of seeds in which the first variant is above the second.",
        "Gain of the last fifth: the rise of val mIoU over the last fifth of the steps, mean over the seeds. With "
        f"{STILL_LEARNING} or more, a network still improved.",
        *_explain_images(bootstrap),
        *_explain_seeds(variants, found),
        *(f"{variant.label} is, in full: {variant.whole}." for variant in variants if variant.whole),
        "Images/s and peak memory were measured during each run. Compare them only between runs on the same machine.",
    ]


def _explain_images(bootstrap: Bootstrap) -> list[str]:
    blocks = bootstrap.blocks
    if blocks.length == 1:
        return []
    return [
        f"The images are frames of {len(blocks.sequences)} sequences, and neighbors are alike (correlation "
        f"{blocks.correlation:.2f}). They are resampled in blocks of {blocks.length}."
    ]


def _explain_seeds(variants: Sequence[Variant], found: Sequence[Difference]) -> list[str]:
    single = [variant.label for variant in variants if len(variant.runs) == 1]
    if not single or not found:
        return []
    what = "The variance between seeds is taken from the other variants."
    if any(ONE_SEED in entry.note for entry in found):
        what = "Verdicts on these hold for the networks as trained. How much another seed would change is unknown."
    return [f"One seed only: {', '.join(single)}. {what}"]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write the table to `path` with the suffixes .md, .csv and .tex."""
    write_text(path.with_suffix(".md"), tables.to_markdown(table))
    write_text(path.with_suffix(".csv"), tables.to_csv(table))
    write_text(path.with_suffix(".tex"), tables.to_latex(table))
