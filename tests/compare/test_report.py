"""`compare.py` as typed: what it writes and says, and its answers to mistakes."""

import csv
from pathlib import Path

import pytest
from conftest import TypeIn
from fake_runs import CLASSES, draw_counts, write_run
from PIL import Image

from segrefine.compare.report import compare_runs
from segrefine.compare.statistics import Settings
from segrefine.runs.read import find_runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two models with two seeds each, the first clearly the better one."""
    for place, (model, right) in enumerate({"refinenet": 0.86, "fcn8s": 0.8}.items()):
        for seed in range(2):
            write_run(tmp_path / "sweep" / f"{model}_{seed}", draw_counts(10 * place + seed, 40, right), model, seed)
    return tmp_path / "sweep"


def test_a_comparison_is_written_whole(sweep: Path, type_in: TypeIn) -> None:
    typed = type_in("compare.py", f"runs={sweep}/*", "output=out", "resamples=300", "baseline=fcn8s")
    assert typed.returncode == 0, typed.stderr
    out = sweep.parent / "out"
    names = {f"{table}.{end}" for table in ("variants", "differences", "classes", "class_differences") for end in FORMS}
    plots = {f"{plot}.png" for plot in ("learning_curves", "accuracy_and_cost", "differences", "regions", "classes")}
    assert {path.name for path in out.iterdir()} == names | plots | {"comparison.html"}
    for plot in plots:
        Image.open(out / plot).verify()
    with (out / "differences.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["variant"], row["against"]) == ("refinenet", "fcn8s")
    assert row["verdict"].startswith("better by ")
    assert f"refinenet against fcn8s, mIoU: {row['verdict']}" in typed.stderr
    page = (out / "comparison.html").read_text()
    assert row["verdict"] in page
    assert "There are no pictures" in page  # the fakes left no predictions


FORMS = ("md", "csv", "tex")


def test_without_a_baseline_every_pair_is_compared_in_the_score_asked_for(sweep: Path, type_in: TypeIn) -> None:
    write_run(sweep / "fcn4s_0", draw_counts(50, 40, 0.83), "fcn4s")
    typed = type_in("compare.py", f"runs={sweep}", "output=out", "resamples=300", "metric=trimap_2")
    assert typed.returncode == 0, typed.stderr
    with (sweep.parent / "out" / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {frozenset((row["variant"], row["against"])) for row in rows} == {
        *(frozenset(pair) for pair in (("refinenet", "fcn8s"), ("refinenet", "fcn4s"), ("fcn8s", "fcn4s")))
    }
    assert {row["score"] for row in rows} == {"trimap_2"}
    assert (
        "One seed only: fcn4s. The variance between seeds is taken from the other variants."
        in (sweep.parent / "out" / "comparison.html").read_text()
    )


def test_a_score_that_one_run_lacks_is_refused(sweep: Path, type_in: TypeIn) -> None:
    file = sweep / "fcn8s_1" / "per_image.csv"
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))
    kept = [index for index, name in enumerate(rows[0]) if not name.startswith("trimap_2_")]
    assert len(kept) < len(rows[0])
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([[row[index] for index in kept] for row in rows])
    typed = type_in("compare.py", f"runs={sweep}", "output=out", "metric=trimap_2")
    assert typed.returncode == 2
    assert "fcn8s_1 has no score 'trimap_2'" in typed.stderr
    assert "Traceback" not in typed.stderr


@pytest.mark.parametrize("void", [1, 40])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_images_without_a_valid_pixel_are_no_obstacle(void: int, tmp_path: Path) -> None:
    for place, model in enumerate(("fcn8s", "refinenet")):
        for seed in range(2):
            counts = draw_counts(10 * place + seed, 40, 0.8)
            counts[:void] = 0
            write_run(tmp_path / f"{model}_{seed}", counts, model, seed)
    tables = compare_runs(find_runs(str(tmp_path / "*")), tmp_path / "out", settings=Settings(200))
    assert set(tables) == {"variants", "differences", "classes", "class_differences"}
    verdicts = set(tables["class_differences"]["verdict"])
    if void == 40:
        assert verdicts == {f"not defined: the class {name} never occurs in these images" for name in CLASSES}
        assert set(tables["differences"]["95 % interval"]) == {"not defined"}
    else:
        assert not any("not defined" in verdict for verdict in verdicts)
    assert (tmp_path / "out" / "comparison.html").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["output=out"], "Give runs=DIR, a list of folders or a glob; or wandb=ENTITY/PROJECT."),
        (["runs=sweep"], "Give output=DIR"),
        (["runs=nowhere", "output=out"], "runs=nowhere: there is no such folder."),
        (["runs=sweep", "output=out", "baseline=fcn16s"], "no variant 'fcn16s' among the runs. Did you mean 'fcn8s'?"),
        (["runs=sweep", "output=out", "metric=miou"], "metric=miou: "),
        (["runs=sweep", "output=out", "resamples=9"], "resamples=9 should be at least 100."),
        (["runs=sweep", "output=out", "block_length=0"], "block_length=0 should be"),
        (["runs=sweep", "output=out", "equivalence=-1"], "equivalence=-1 should be at least 0."),
        (["runs=sweep", "wandb=a/b", "output=out"], "Give runs=DIR, a list of folders or a glob; or wandb="),
        (["runs=sweep", "output=out", "base=fcn8s"], "There is no option 'base'. Did you mean 'baseline'?"),
        (["claims=a.yml", "output=out"], "claims=a.yml writes beside that file: remove output=."),
        (["claims=a.yml", "plan=true"], "claims=a.yml writes beside that file: remove plan=."),
        (["claims=nowhere.yml"], "claims=nowhere.yml cannot be read: No such file or directory."),
    ],
)
def test_mistakes_get_one_message(options: list[str], words: str, sweep: Path, type_in: TypeIn) -> None:
    typed = type_in("compare.py", *options)
    assert typed.returncode == 2
    assert words in typed.stderr
    assert "Traceback" not in typed.stderr
    assert not (sweep.parent / "out").exists()
