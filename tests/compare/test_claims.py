"""Claims: outcomes and verdicts by value, files regenerated, and those of this project checked for sense."""

import shutil
from pathlib import Path

import pytest
import yaml
from fake_runs import draw_counts, write_run

from segrefine.compare.claim import Claim, read_claims
from segrefine.compare.claims import BEGIN, END, describe, outcome, sum_up, write_claims
from segrefine.compare.difference import Difference
from segrefine.compare.statistics import Settings
from segrefine.core.errors import UserError
from segrefine.io.atomic import write_text

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CLAIMS = read_claims(EXPERIMENTS / "claims.yml")


def finding(low: float, high: float, margin: float = 0.0) -> Difference:
    return Difference("a", "b", "mIoU", (low + high) / 2, low, high, 0.5, 1.0, (3, 3), margin)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finding(0.01, 0.03), "as claimed"),
        (finding(-0.03, -0.01), "the other way"),
        (finding(-0.01, 0.03), "not shown"),
        (finding(-0.019, 0.03, margin=0.02), "as claimed"),
        (finding(-0.03, 0.03, margin=0.02), "not shown"),
        (finding(-0.05, -0.03, margin=0.02), "the other way"),
    ],
)
def test_outcomes(found: Difference, expected: str) -> None:
    assert outcome(found) == expected


def test_verdicts_say_how_much_of_a_claim_holds() -> None:
    assert sum_up(["as claimed"] * 2) == "holds"
    assert sum_up(["the other way"]) == "the opposite holds"
    assert sum_up(["not shown"] * 2) == "not shown"
    mixed = ["as claimed", "not shown", "the other way", "not decided", "the other way"]
    assert sum_up(mixed) == "in part: 1 as claimed, 1 not shown, 2 the other way, 1 not decided"


def test_a_difference_is_described_in_points() -> None:
    assert describe(finding(0.01, 0.03)) == "a over b: +2.0 (+1.0 to +3.0)"
    assert describe(finding(-0.03, 0.01, margin=0.02)) == "a over b: -1.0 (-3.0 to +1.0, claimed: above -2)"
    assert describe(finding(float("nan"), float("nan"))).startswith("a over b: not defined")


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of claims with results of two of three variants; pictures, which take seconds, are empty."""
    monkeypatch.setattr("segrefine.compare.claims.save_figure", lambda figure, file: write_text(file, ""))
    for place, (name, right) in enumerate({"good": 0.86, "bad": 0.8}.items()):
        for seed in range(2):
            counts = draw_counts(10 * place + seed, 40, right)
            write_run(tmp_path / "results" / "set" / f"{name}_seed{seed}", counts, seed=seed)
    tests = {"set": [{"pair": ["good", "bad"]}, {"pair": ["good", "absent"]}], "other": [{"pair": ["good", "bad"]}]}
    claim = {"folder": "01_first", "title": "Good beats bad", "source": "nobody", "question": "Does it?"}
    claim |= {"method": "python train.py", "tests": tests, "plots": ["regions"], "remarks": "None."}
    (tmp_path / "claims.yml").write_text(yaml.safe_dump([claim], sort_keys=False))
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    return tmp_path


def test_the_table_of_verdicts_is_regenerated_between_its_marks(top: Path) -> None:
    write_claims(top / "claims.yml", Settings(300))
    text = (top / "README.md").read_text()
    assert text.startswith(f"before\n{BEGIN}\n| ")
    assert text.endswith(f"{END}\nafter\n")
    rows = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert "good over bad: +" in rows[0]
    assert rows[0].endswith("| holds (1 not run yet) |")
    assert rows[1].endswith("| not run yet |")
    assert "stale" not in text
    write_claims(top / "claims.yml", Settings(300))
    assert (top / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("changed", "curve", "reason"),
    [
        ("good", "99,0.5\n199,0.6\n", "1 of 2 networks was still learning"),
        ("*", "199,0.6\n", "networks may still have been learning"),
    ],
)
def test_networks_that_were_still_learning_decide_nothing(top: Path, changed: str, curve: str, reason: str) -> None:
    for folder in (top / "results/set").glob(f"{changed}_*"):
        (folder / "metrics.csv").write_text(f"step,val/mIoU\n{curve}")
    write_claims(top / "claims.yml", Settings(300))
    (row,) = (line for line in (top / "README.md").read_text().splitlines() if "good over bad" in line)
    assert row.endswith(f"| not decided: {reason} (1 not run yet) |")


def test_rows_stand_in_the_order_of_the_file_and_are_numbered_by_their_folders(top: Path) -> None:
    (claim,) = yaml.safe_load((top / "claims.yml").read_text())
    tests = {"set": [{"pair": ["good", "bad"]}]}
    claims = [claim | {"folder": folder, "tests": tests} for folder in ("claims/12_late", "claims/03_early")]
    (top / "claims.yml").write_text(yaml.safe_dump(claims))
    write_claims(top / "claims.yml", Settings(300))
    text = (top / "README.md").read_text()
    assert 0 < text.index("| 12 |") < text.index("| 3 |")
    assert (top / "claims/03_early/README.md").read_text().startswith("# 3. Good beats bad")


def test_every_claim_gets_a_page_of_its_own(top: Path) -> None:
    write_claims(top / "claims.yml", Settings(300))
    text = (top / "01_first" / "README.md").read_text()
    for words in ("# 1. Good beats bad", "Does it?", "Source: nobody", "python train.py", "## set", "None."):
        assert words in text
    pictures = {path.name for path in (top / "01_first").glob("*.png")}
    assert pictures == {"set_differences.png", "set_regions.png"}
    assert all(f"({name})" in text for name in pictures)


def test_a_readme_without_marks_is_left_alone(top: Path) -> None:
    for text in ("no marks", None):
        (top / "README.md").write_text(text) if text else (top / "README.md").unlink()
        with pytest.raises(UserError, match=r"README\.md has no lines"):
            write_claims(top / "claims.yml", Settings(300))
    assert not (top / "README.md").exists()


WORDS = "folder: 01_x, title: t, source: s, question: q, method: m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is broken"),
        ("a: b", "should be a list of claims"),
        ("- {folder: x, titel: y}", r"claim 1 has no option 'titel'\. Did you mean 'title'"),
        ("- {folder: 01_x, title: y}", "claim 1 lacks the options source, question, method"),
        (
            f"- {{{WORDS}}}\n- {{{WORDS.replace('01_x', 'a/first')}}}",
            "claim 2: .*with the claim's number, such as 01_first",
        ),
        (f"- {{{WORDS}, plots: [region]}}", r"claim 1 has no plot 'region'\. Did you mean 'regions'"),
        (f"- {{{WORDS}, tests: {{set: [{{pair: [a, b], margins: 2}}]}}}}", r"tests\.set has no option 'margins'"),
        (f"- {{{WORDS}, tests: {{set: [{{metric: mIoU}}]}}}}", r"tests\.set lacks the options pair"),
        (f"- {{{WORDS}, tests: {{set: [{{pair: [a]}}]}}}}", r"tests\.set: pair=\['a'\] should name two variants"),
        (f"- {{{WORDS}, tests: {{set: [{{pair: [a, b], margin: -2}}]}}}}", r"tests\.set: margin=-2 should be"),
        (f"- {{{WORDS}, tests: {{set: a over b}}}}", r"tests\.set should be a list"),
        (f"- {{{WORDS}, tests: [a, b]}}", r"claim 1: tests=.* should be a mapping"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yml").write_text(text)
    with pytest.raises(UserError, match=rf"claims\.yml.* ?{message}"):
        read_claims(tmp_path / "claims.yml")


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.folder for claim in CLAIMS])
def test_a_claim_of_ours_names_runs_that_there_are(claim: Claim) -> None:
    # By evaluate.py, from runs that are there.
    scored = {f"{model}_{way}" for model in ("refinenet", "fcn8s", "fcn4s") for way in ("multiscale", "crf")}
    for name, wanted in claim.tests.items():
        folder = EXPERIMENTS / "configs/experiment" / name.removesuffix("_centered")  # by other options
        files = {path.stem for path in folder.glob("*.yaml")}
        assert {one for test in wanted for one in test.pair} <= files | scored
    assert claim.tests or claim.costs


def test_there_are_thirteen_claims() -> None:
    assert sorted(claim.number for claim in CLAIMS) == list(range(1, 14))


@pytest.mark.slow
def test_the_committed_verdicts_follow_from_the_committed_results(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(EXPERIMENTS, tmp_path / "experiments"))
    write_claims(copy / "claims.yml", Settings())
    assert (copy / "README.md").read_text() == (EXPERIMENTS / "README.md").read_text()
