"""The ranking: letters that mean what they should, and sentences that say what was found."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from fake_runs import CLASSES, draw_counts, fake_variants, write_run

from segrefine.compare.difference import Difference
from segrefine.compare.ranking import answer, group_letters, rank_variants
from segrefine.compare.statistics import Bootstrap, Question, Settings
from segrefine.compare.variants import group
from segrefine.runs.read import read_run


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_two_share_a_letter_if_and_only_if_they_are_not_told_apart(count: int) -> None:
    rng = np.random.default_rng(count)
    scores = np.sort(rng.random(count))
    for apart in (
        [pair for pair in combinations(range(count), 2) if abs(scores[pair[0]] - scores[pair[1]]) > 0.3],
        [pair for pair in combinations(range(min(count, 7)), 2) if rng.random() < 0.5],
        [],
    ):
        letters = group_letters(count, apart)
        assert all(letters)
        for one, other in combinations(range(count), 2):
            shared = {*letters[one]} & {*letters[other]}
            assert bool(shared) == ((one, other) not in apart), (one, other)


def test_the_best_comes_first_and_equals_share_a_letter(tmp_path: Path) -> None:
    variants = fake_variants(tmp_path, {"fcn32s": 0.7, "refinenet": 0.9, "fcn8s": 0.9})
    bootstrap = Bootstrap(variants, settings=Settings(500))
    pairs = [Question(one, other) for one, other in combinations(variants, 2)]
    found = bootstrap.differences(pairs)
    ranking = rank_variants(bootstrap, "mIoU", found)
    assert ranking[2].variant.label == "fcn32s"
    assert [one.letters for one in ranking] == ["a", "a", "b"]
    assert all(one.low < one.score < one.high for one in ranking)
    assert [one.letters for one in rank_variants(bootstrap, "mIoU", found[:2])] == ["", "", ""]
    first, second = answer(ranking, "mIoU", found, None)
    other = ranking[1].variant.label
    assert first.startswith(f"{ranking[0].variant.label} has the highest mIoU. It is better than 1 of the other 2 and ")
    assert other in first
    assert second.startswith("Of 3 pairs, 2 are told apart and 1 is ")


def test_a_score_that_nothing_has_is_not_the_highest(tmp_path: Path) -> None:
    counts = [draw_counts(seed, 20, 0.8) for seed in range(2)]
    for each in counts:
        each[:, :, 1] = 0
    names = ("fcn8s", "refinenet")
    runs = [read_run(write_run(tmp_path / name, each, name)) for name, each in zip(names, counts, strict=True)]
    bootstrap = Bootstrap(group(runs), settings=Settings(200))
    metric = f"IoU:{CLASSES[1]}"
    found = [bootstrap.difference(*bootstrap.variants, metric)]
    assert answer(rank_variants(bootstrap, metric, found), metric, found, None) == [
        f"{metric} is not defined: the class {CLASSES[1]} never occurs in these images."
    ]


def difference(one: str, other: str, low: float, high: float, needed: int | None = None) -> Difference:
    return Difference(one, other, "mIoU", (low + high) / 2, low, high, 0.5, 0.5, (3, 3), needed=needed)


def test_answers_in_words(tmp_path: Path) -> None:
    variants = fake_variants(tmp_path, {"fcn8s": 0.9, "fcn16s": 0.85, "fcn32s": 0.8}, seeds=2, images=12)
    bootstrap = Bootstrap(variants, settings=Settings(100))
    ranking = rank_variants(bootstrap, "mIoU", [])
    clear = [difference("fcn8s", "fcn16s", 0.012, 0.05), difference("fcn32s", "fcn8s", -0.2, -0.1)]
    assert answer(ranking, "mIoU", clear, None)[0] == (
        "fcn8s has the highest mIoU. It is better than each of the other 2, by at least 1.2 points."
    )
    mixed = [difference("fcn8s", "fcn16s", -0.012, 0.05, 8), difference("fcn32s", "fcn8s", -0.001, 0.001)]
    assert answer(ranking, "mIoU", mixed, None) == [
        "fcn8s has the highest mIoU. It is practically equal to fcn32s and not told apart from fcn16s.",
        "Of 2 pairs, 1 is practically equal and 1 is undecided. "
        "8 seeds of each would probably decide 1 of the undecided.",
    ]
    against = [difference("fcn8s", "fcn32s", 0.02, 0.05), difference("fcn16s", "fcn32s", -0.02, 0.05)]
    assert answer(ranking, "mIoU", against, "fcn32s") == [
        "Against fcn32s: fcn8s is better.",
        "Of 2 pairs, 1 is told apart and 1 is undecided.",
    ]
    assert answer(ranking, "mIoU", against[1:], "fcn32s") == [
        "Against fcn32s: no variant is shown to be better or worse.",
    ]
    assert answer(ranking, "mIoU", mixed[:1], None)[1:] == ["8 seeds of each would probably decide."]
    assert answer(ranking, "mIoU", [], None) == []
