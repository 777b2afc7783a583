"""Runs of a cross-validation put together."""

from pathlib import Path

import numpy as np
import pytest
from fake_runs import draw_counts, write_run

from segrefine.compare.claims import read_results
from segrefine.compare.folds import merge_folds
from segrefine.compare.scores import scores_from_counts
from segrefine.compare.variants import group
from segrefine.core.errors import UserError
from segrefine.runs.read import Run, read_run

COUNTS = draw_counts(0, 11, 0.8)
BOUNDS = ((0, 4), (4, 9), (9, 11))


def write_fold(folder: Path, fold: int, model: str = "fcn8s", seed: int = 0, right: float = 0.8) -> Run:
    """A run scored on the images of one of three folds, whose names start with the fold's number."""
    low, high = BOUNDS[fold]
    counts = draw_counts(seed, 11, right)[low:high]
    path = write_run(folder / f"{model}_{fold}_{seed}", counts, model, seed, datamodule__fold=fold, datamodule__folds=3)
    table = path / "per_image.csv"
    table.write_text(table.read_text().replace("image_", f"fold{fold}_"))
    (path / "metrics.csv").write_text(f"step,val/mIoU\n79,0.5\n99,{0.5 + fold / 100}\n" + "119,0.9\n" * (fold == 2))
    return read_run(path)


def test_a_run_of_all_folds_has_all_images_and_their_score(tmp_path: Path) -> None:
    (merged,) = merge_folds([write_fold(tmp_path, fold) for fold in (2, 0, 1)])
    assert merged.images == tuple(
        f"fold{fold}_{i}" for fold, (low, high) in enumerate(BOUNDS) for i in range(high - low)
    )
    np.testing.assert_array_equal(merged.counts, COUNTS)
    hits, truth, prediction = COUNTS[:, :3].sum(0)
    found = scores_from_counts(merged.counts.sum(0))["mIoU"]
    assert found == pytest.approx(np.mean(hits / (truth + prediction - hits)), rel=1e-12)
    assert merged.summary.num_images == 11
    assert merged.summary.mIoU is None  # that of a single fold would mislead


def test_curves_and_gains_are_means_over_the_folds(tmp_path: Path) -> None:
    (merged,) = merge_folds([write_fold(tmp_path, fold) for fold in range(3)])
    steps, values = merged.curve("val/mIoU")
    np.testing.assert_allclose(steps, [80, 100])
    np.testing.assert_allclose(values, [0.5, 0.51])
    # The last fifth of the third fold, from step 96 of 120: 0.9 less 0.516, between 0.5 and 0.52.
    assert merged.gain == pytest.approx((0 + 0.01 + 0.9 - 0.516) / 3)


def test_variants_of_folds_are_grouped_by_seed(tmp_path: Path) -> None:
    runs = [
        write_fold(tmp_path, fold, model, seed) for model in ("fcn8s", "fcn16s") for seed in (0, 1) for fold in range(3)
    ]
    variants = group(runs)
    assert [(variant.label, [run.seed for run in variant.runs]) for variant in variants] == [
        ("fcn8s", [0, 1]),
        ("fcn16s", [0, 1]),
    ]


def test_a_missing_or_doubled_fold_is_refused_by_number(tmp_path: Path) -> None:
    runs = [write_fold(tmp_path, fold) for fold in range(3)]
    with pytest.raises(UserError, match=r"fcn8s with seed 0 .* lacks fold 1 of 3.* Train what is missing"):
        group([runs[0], runs[2]])
    with pytest.raises(UserError, match="has a fold twice: remove one"):
        group([*runs, write_fold(tmp_path / "again", 1)])
    # A network may lack a fold that another one has.
    with pytest.raises(UserError, match=r"fcn16s with seed 0 .* lacks fold 1, 2 of 3"):
        group([*runs, write_fold(tmp_path, 0, "fcn16s")])


def test_runs_of_one_fold_are_compared_as_they_are(tmp_path: Path) -> None:
    runs = [write_fold(tmp_path, 1, model) for model in ("fcn8s", "fcn16s")]
    assert merge_folds(runs) == runs


def test_claims_find_the_runs_of_all_folds(tmp_path: Path) -> None:
    for model in ("fcn8s", "fcn8s_context"):
        for seed in (1, 0):
            for fold in range(3):
                run = write_fold(tmp_path / "elsewhere" / model, fold, "fcn8s", seed)
                run.folder.path.rename(tmp_path / f"{model}_fold{fold}_seed{seed}")
    found = read_results(tmp_path, ["fcn8s", "fcn8s_context", "absent"])
    assert {name: [(run.seed, len(run.images)) for run in variant.runs] for name, variant in found.items()} == {
        "fcn8s": [(0, 11), (1, 11)],
        "fcn8s_context": [(0, 11), (1, 11)],
    }
    assert read_results(tmp_path / "nowhere", ["fcn8s"]) == {}
