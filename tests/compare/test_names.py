"""Names of variants: what sets them apart from most others, in few characters, and never the same for two."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_runs import draw_counts, write_run

from segrefine.compare.names import LONGEST, Names, name_runs
from segrefine.core.config import list_names, read_group
from segrefine.engine.resume import complete
from segrefine.runs.options import FORMERLY, flatten_options
from segrefine.runs.read import read_run

COUNTS = draw_counts(0, 3, 0.8)


def named(folder: Path, *options: dict[str, Any]) -> Names:
    """Names of runs with these options; `model` is fcn8s unless given."""
    place = len(list(folder.iterdir()))
    folders = [write_run(folder / f"{place}_{number}", COUNTS, **own) for number, own in enumerate(options)]
    return name_runs([read_run(path) for path in folders])


def labels(folder: Path, *options: dict[str, Any]) -> list[str]:
    return list(named(folder, *options).labels)


def test_of_two_runs_both_say_how_they_differ(tmp_path: Path) -> None:
    assert labels(tmp_path, {"model": "refinenet"}, {}) == ["refinenet", "fcn8s"]
    assert labels(tmp_path, {}, {"recipe__lr": 0.1}) == ["fcn8s lr=0.0005", "fcn8s lr=0.1"]
    assert labels(tmp_path, {}, {"backbone__weights": "/x/vgg.pth"}) == ["fcn8s weights=none", "fcn8s weights=vgg"]
    assert labels(tmp_path, {}, {"backbone__name": "resnet50"}) == ["fcn8s resnet18", "fcn8s resnet50"]
    pooled = {"model": "refinenet"}, {"model": "refinenet", "model__crp_links": 1}, {}
    assert labels(tmp_path, *pooled) == ["refinenet crp_links=4", "refinenet crp_links=1", "fcn8s"]


def test_an_evaluation_that_does_not_know_its_recipe_is_not_told_apart_by_it(tmp_path: Path) -> None:
    assert labels(tmp_path, {"model": "refinenet", "recipe": {}}, {}) == ["refinenet", "fcn8s"]


def test_options_with_the_same_last_part_are_told_apart(tmp_path: Path) -> None:
    views = {False: {"scales": [1.0], "flip": False}, True: {"scales": [1.0], "flip": True}}
    trained = {False: {"flip": False}, True: {"flip": True}}
    runs = [{"datamodule__augment": trained[one], "tta": views[other]} for one in trained for other in views]
    found = labels(tmp_path, *runs)
    assert found[:2] == ["fcn8s tta.flip=false augment.flip=false", "fcn8s tta.flip=true augment.flip=false"]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("group", "option", "value"), [("recipe", "center_updates", "all"), ("model", "auxiliary", 0.5)]
)
def test_a_run_from_before_an_option_has_what_was_in_effect_then(
    group: str, option: str, value: Any, tmp_path: Path
) -> None:
    """Both options were off, although the first is on by default now."""
    old, off, on = (
        write_run(tmp_path / name, COUNTS, "refinenet", seed, **{f"{group}__{option}": setting})
        for seed, (name, setting) in enumerate({"old": None, "off": None, "on": value}.items())
    )
    config = yaml.safe_load((old / "config.yaml").read_text())
    del config[group][option]
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    found = name_runs([read_run(path) for path in (old, off, on)]).labels
    assert found[0] == found[1] != found[2] == f"refinenet {option}={value}"


def test_what_most_variants_share_is_said_once(tmp_path: Path) -> None:
    names = named(tmp_path, {}, {"model": "fcn16s"}, {"model": "refinenet"}, {"backbone__weights": "a.pth"})
    assert names.labels == ("fcn8s", "fcn16s", "refinenet", "fcn8s weights=a")
    assert names.shared == "resnet18, weights=none"
    other = {"model": "refinenet", "model__crp_links": 2}
    names = named(
        tmp_path, {}, {"model": "refinenet"}, {"model": "refinenet", "seed": 1}, other, other | {"recipe__lr": 1}
    )
    assert names.labels == (
        *("fcn8s", "refinenet crp_links=4", "refinenet crp_links=4"),
        *("refinenet", "refinenet lr=1"),
    )
    assert names.shared == "resnet18, crp_links=2 (refinenet), lr=0.0005"


def test_runs_that_differ_in_the_seed_alone_have_one_name(tmp_path: Path) -> None:
    assert set(labels(tmp_path, {"seed": 0}, {"seed": 1, "ckpt_path": "x.ckpt"}, {"seed": 2})) == {"fcn8s"}


def test_what_a_run_started_from_makes_another_variant(tmp_path: Path) -> None:
    """Although a run that goes on may leave it out."""
    started = {"init_from": None}, {"init_from": "/x/voc.pth"}
    assert labels(tmp_path, *started) == ["fcn8s init_from=none", "fcn8s init_from=voc"]


def test_what_evaluate_scored_otherwise_is_another_variant(tmp_path: Path) -> None:
    scales = {"tta": {"scales": [0.75, 1.0], "flip": False}, "window": None, "checkpoint": "/x/best.ckpt"}
    assert labels(tmp_path, {}, scales) == ["fcn8s scales=[1.0]", "fcn8s scales=[0.75,1.0]"]


def test_what_was_refined_by_a_crf_is_another_variant(tmp_path: Path) -> None:
    plain, refined = ({"checkpoint": "/x/best.ckpt", "post": post, "crf": {"steps": 10}} for post in (None, "crf"))
    assert labels(tmp_path, plain, refined) == ["fcn8s post=none", "fcn8s post=crf"]
    assert labels(tmp_path, {}, refined) == ["fcn8s post=none", "fcn8s post=crf"]


def test_a_sum_of_losses_is_one_option(tmp_path: Path) -> None:
    losses: list[Any] = ["mean", {"mean": 1.0, "dice": 0.5}, {"dice": 1.0}]
    found = labels(tmp_path, *({"recipe__loss": loss} for loss in losses))
    assert found == ["fcn8s loss=mean", "fcn8s loss=0.5*dice+mean", "fcn8s loss=dice"]


def test_paths_stay_whole_where_their_stems_would_mix_up_two_runs(tmp_path: Path) -> None:
    started = {"init_from": "/a/best.ckpt"}, {"init_from": "/b/best.ckpt"}
    assert labels(tmp_path, *started) == ["fcn8s init_from=/a/best.ckpt", "fcn8s init_from=/b/best.ckpt"]
    by_seed = [own | {"seed": seed} for seed, own in enumerate(started)]  # each seed goes on from its own
    assert labels(tmp_path, *by_seed, {"model": "refinenet"}) == ["fcn8s", "fcn8s", "refinenet"]


def test_long_names_lose_their_longest_options_but_stay_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    choices = {
        "recipe__lr": (0.1, 0.2),
        "recipe__schedule": ({"name": "poly", "warmup_steps": 100}, {"name": "constant", "warmup_steps": 1}),
        "datamodule__train_size": (100, 200),
        "backbone__weights": (None, "some_longer_file_name.safetensors"),
        "model__upsample": ("learned", "fixed"),
    }
    every = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    options = [every[place] for place in rng.permutation(len(every))[:20]]
    names = named(tmp_path, *options)
    assert len(set(names.labels)) == 20
    for label in names.labels:
        shorter = label.split(" ")[1:]
        kept = [" ".join(["fcn8s", *(part for part in shorter if part != left)]) for left in shorter]
        assert len(label) <= LONGEST or len(shorter) == 1 or all(one in names.labels for one in kept), label
    assert all(set(label.split(" ")) < set(whole.split(" ")) for label, whole in names.whole.items())
    assert names.whole


def test_what_was_before_an_option_is_what_a_run_resumes_with() -> None:
    for name in list_names("model"):
        model = {key: value for key, value in read_group("model", name).items() if key in ("name", "decoder")}
        then = flatten_options(complete({"model": model, "backbone": {}, "recipe": {}, "datamodule": {}}))
        for option in then.keys() - {"model.name", "model.decoder"}:
            assert FORMERLY.get(option) == (list(then[option]) if isinstance(then[option], tuple) else then[option])
