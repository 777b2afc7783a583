"""Run folders read and grouped: what makes a variant, what is refused, and in which words."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import CLASSES, draw_counts, write_run

from segrefine.compare.variants import Variant, find_variant, group
from segrefine.core.errors import UserError
from segrefine.metrics.scores import IMAGE_COUNTS
from segrefine.runs.per_image import read_per_image, write_per_image
from segrefine.runs.read import find_runs, read_run

COUNTS = draw_counts(0, 6, 0.8)
HEADER = f"image,{','.join(f'{count}:a' for count in IMAGE_COUNTS[:6])}\n"


def labels(*folders: Path) -> list[str]:
    return [variant.label for variant in group([read_run(folder) for folder in folders])]


def test_counts_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", COUNTS))
    np.testing.assert_array_equal(run.counts, COUNTS)
    assert run.classes == CLASSES
    assert run.count_names == IMAGE_COUNTS
    assert run.images == tuple(f"image_{index}" for index in range(6))
    np.testing.assert_array_equal(run.rows("trimap_2_"), COUNTS[:, 9:12])
    steps, values = run.curve("val/mIoU")
    assert steps.tolist() == [100, 200]
    assert values.tolist() == pytest.approx([0.30099, 0.30199])
    assert [len(part) for part in run.curve("nothing")] == [0, 0]


def test_hostile_names_come_back(tmp_path: Path) -> None:
    names = ["a,b", 'q"uo"te', "new\nline", "\r\n", "\udcff", "#", " x ", "\u2028", "", "NA", "1.0", '"']
    classes = ["a:b", 'x,"\n']
    counts = np.random.default_rng(0).integers(0, 2**60, (len(names), len(IMAGE_COUNTS), 2))
    for images in (names, names[:1]):
        write_per_image(tmp_path / "per_image.csv", images, counts[: len(images)], classes)
        table = read_per_image(tmp_path / "per_image.csv")
        assert table[:3] == (tuple(images), tuple(classes), IMAGE_COUNTS)
        np.testing.assert_array_equal(table.counts, counts[: len(images)])


def test_packed_tables_are_read_alike(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", COUNTS)
    for name in ("per_image.csv", "metrics.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    run = read_run(folder)
    np.testing.assert_array_equal(run.counts, COUNTS)
    assert len(run.curve("val/mIoU")[0]) == 2


def test_runs_that_differ_in_the_seed_alone_are_one_variant(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{seed}", COUNTS, seed=seed, ckpt_path=f"{seed}.ckpt") for seed in (2, 0, 1)]
    (variant,) = group([read_run(folder) for folder in folders])
    assert variant.label == "fcn8s"
    assert [run.seed for run in variant.runs] == [0, 1, 2]


def test_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, COUNTS, seed=3) for name in "ab"]
    with pytest.raises(UserError, match=r"a and .*b are both fcn8s with seed 3: remove one"):
        labels(*folders)


def test_runs_on_other_images_data_or_classes_are_refused(tmp_path: Path) -> None:
    one, fewer = write_run(tmp_path / "a", COUNTS), write_run(tmp_path / "b", COUNTS[:4], seed=1)
    with pytest.raises(UserError, match=r"not scored on the same images"):
        labels(one, fewer)
    folds = [
        write_run(tmp_path / name, COUNTS[:images], datamodule__fold=fold, datamodule__folds=4)
        for name, images, fold in (("c", 5, 0), ("d", 6, 1), ("e", 6, 2))
    ]
    with pytest.raises(
        UserError, match=r"d is of fold 1 of 4, .*c of fold 0 of 4, so .* Compare the runs of each fold"
    ):
        labels(*folds)
    with pytest.raises(UserError, match=r"c is of fold 0 of 4, .*a of no fold, so"):
        labels(one, folds[0])
    assert labels(*folds[1:]) == ["fcn8s fold=1", "fcn8s fold=2"]  # of one test split
    summary = json.loads((fewer / "summary.json").read_text()) | {"datamodule": "camvid"}
    (fewer / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"b is scored on datamodule camvid, .*a on shapes"):
        labels(one, fewer)


def test_the_same_names_of_images_with_other_labels_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", COUNTS)
    for name, count in (("pixels", "truth"), ("boundary", "boundary_truth")):
        moved = COUNTS.copy()
        moved[4, IMAGE_COUNTS.index(count)] += (1, -1, 0)
        other = write_run(tmp_path / name, moved, seed=1)
        with pytest.raises(UserError, match=rf"{name} and .*a are scored .* different labels. The first is image_4"):
            labels(one, other)
    predicted = COUNTS.copy()
    predicted[4, IMAGE_COUNTS.index("prediction")] += (1, -1, 0)
    assert labels(one, write_run(tmp_path / "b", predicted, seed=2)) == ["fcn8s"]


def found(*patterns: Path) -> list[Path]:
    return [run.folder.path for run in find_runs([str(pattern) for pattern in patterns])]


def test_runs_are_found_by_path_glob_and_sweep(tmp_path: Path) -> None:
    days = [tmp_path / "outputs" / "1", tmp_path / "outputs" / "2"]
    folders = [write_run(days[0] / name, COUNTS, seed=seed) for seed, name in enumerate(("run_2", "run_10"))]
    folders.append(write_run(days[1] / "run_[1]", COUNTS, seed=2))
    assert found(days[0]) == folders[:2]
    assert found(tmp_path / "outputs") == found(tmp_path / "outputs" / "*") == folders
    assert found(folders[2]) == folders[2:]  # although a glob of that name matches something else
    assert found(folders[1], tmp_path / "outputs" / "*" / "*") == [folders[1], folders[0], folders[2]]


def test_a_glob_skips_what_is_no_finished_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, unfinished, unscored = (write_run(tmp_path / "sweep" / name, COUNTS) for name in "abc")
    (unfinished / "summary.json").unlink()
    (unscored / "per_image.csv").unlink()
    (tmp_path / "sweep" / "page").mkdir()
    assert found(tmp_path / "sweep") == [run]
    assert caplog.messages == [f"skipped, as they are not finished runs: {unfinished}, {unscored}"]
    assert found(tmp_path / "sweep" / "*") == [run]
    assert f"{unscored}, {tmp_path / 'sweep' / 'page'}" in caplog.messages[1]
    with pytest.raises(UserError, match=r"there is no finished run\. .*b lacks summary\.json"):
        found(run, unfinished)
    with pytest.raises(UserError, match=r"there is no finished run\. .*c lacks per_image\.csv"):
        found(unscored)


def test_a_glob_skips_evaluations_that_cannot_stand_beside_the_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(name: str, counts: np.ndarray = COUNTS, **more: object) -> Path:
        folder = write_run(tmp_path / name, counts, **{key: more[key] for key in ("tta",) if key in more})
        summary = json.loads((folder / "summary.json").read_text()) | {"weights": "abc"} | more
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    plain, scales = {"scales": [1.0], "flip": False}, {"scales": [0.5, 1.0], "flip": False}
    run, multiscale = write("a_run"), write("b_scales", checkpoint="x", tta=scales)
    refined = write("b_z_refined", checkpoint="x", tta=plain, post="crf")
    repeated = write("c_repeated", checkpoint="x", tta=plain)
    other = [write("d_val", split="val", checkpoint="x", tta=plain), write("e_few", COUNTS[:3], checkpoint="x")]
    assert found(tmp_path / "*") == [run, multiscale, refined]
    assert caplog.messages == [
        f"skipped the evaluation {repeated}: it repeats the scores of {run}",
        *(f"skipped the evaluation {folder}: it scores other images than the trained runs do" for folder in other),
    ]
    assert found(tmp_path / "[c-e]*") == [repeated, *other]  # among themselves they are compared, or refused
    assert found(run, *other) == [run, *other]
    with pytest.raises(UserError, match=r"d_val is scored on split val"):
        group(find_runs([str(run), str(other[0])]))


def test_folders_that_hold_nothing_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs=nowhere/\*: there is no such folder"):
        found(Path("nowhere/*"))
    with pytest.raises(UserError, match=r"no finished run\. .* lacks config\.yaml, summary\.json, per_image\.csv"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("summary.json", "{", r"summary\.json is broken"),
        ("summary.json", "{}", r"summary\.json lacks backbone, datamodule"),
        ("summary.json", "[]", r"summary\.json is broken: it holds no named values"),
        ("config.yaml", "a: [", r"config\.yaml is broken"),
        ("config.yaml", None, r"config\.yaml cannot be read: No such file"),
        ("per_image.csv", None, r"per_image\.csv cannot be read: No such file"),
        ("per_image.csv", "", r"per_image\.csv is broken: its columns are not COUNT:CLASS"),
        ("per_image.csv", HEADER, r"per_image\.csv is broken: it holds no images"),
        ("per_image.csv", f"{HEADER}x,1,2,3,4,5\n", r"per_image\.csv is broken"),
        ("per_image.csv", f"{HEADER}x,1,2,3,4,5,6,7\n", r"per_image\.csv is broken"),
        ("per_image.csv", f"{HEADER.strip()},truth:b\nx,1,2,3,4,5,6,7\n", r"its columns are not COUNT:CLASS"),
        ("per_image.csv", "image,a:b\nx,1\n", r"per_image\.csv is broken: its columns are not COUNT:CLASS"),
        ("per_image.csv", f"{HEADER}x,one,2,3,4,5,6\n", r"per_image\.csv is broken"),
        ("metrics.csv", "step,val/mIoU\n99,high\n", r"metrics\.csv cannot be read"),
    ],
)
def test_broken_files_are_named(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", COUNTS)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=words):
        read_run(folder).curve("val/mIoU")


def test_a_packed_table_cut_off_or_damaged_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", COUNTS)
    (folder / "per_image.csv.gz").write_bytes(gzip.compress((folder / "per_image.csv").read_bytes())[:-30])
    (folder / "per_image.csv").unlink()
    with pytest.raises(UserError, match=r"per_image\.csv is broken"):
        read_run(folder)
    packed = bytearray(gzip.compress(b"image" * 1000))
    packed[12] ^= 255
    (folder / "per_image.csv.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"per_image\.csv is broken"):
        read_run(folder)


def test_a_variant_is_found_by_its_label(tmp_path: Path) -> None:
    variants = group([read_run(write_run(tmp_path / model, COUNTS, model)) for model in ("fcn8s", "refinenet")])
    assert find_variant(variants, "refinenet") is variants[1]
    with pytest.raises(UserError, match=r"no variant 'refinet' among the runs\. Did you mean 'refinenet'"):
        find_variant(variants, "refinet")


def test_labels_rename_variants(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / model, COUNTS, model)) for model in ("fcn8s", "refinenet")]
    assert [variant.label for variant in group(runs, {"refinenet": "RefineNet of 2017"})] == [
        "fcn8s",
        "RefineNet of 2017",
    ]
    with pytest.raises(UserError, match=r"labels: there is no variant 'fcn8' among the runs\. Did you mean 'fcn8s'"):
        group(runs, {"fcn8": "x"})
    with pytest.raises(UserError, match=r"'fcn8s' and 'refinenet' would both be called 'refinenet'"):
        group(runs, {"fcn8s": "refinenet"})


def test_networks_that_gained_half_a_point_in_the_last_fifth_still_learned(tmp_path: Path) -> None:
    """Of a line through the validations: from 0.58, 80 of 100 steps along, to 0.6; of two seeds, the mean."""
    runs = [read_run(write_run(tmp_path / str(seed), draw_counts(seed, 12, 0.8), seed=seed)) for seed in range(2)]
    runs[0].folder.metrics.write_text("step,val/mIoU\n49,0.5\n74,0.575\n84,0.585\n99,0.6\n")
    (variant,) = group(runs)
    assert runs[0].gain == pytest.approx(0.02)
    assert variant.gain == pytest.approx((0.02 + runs[1].gain) / 2)
    assert variant.still_learning
    assert not Variant("flat", (runs[1],)).still_learning
    runs[0].folder.metrics.write_text("step,val/mIoU\n99,0.6\n")
    once = Variant("once", (read_run(tmp_path / "0"),))
    assert (once.gain, once.still_learning) == (None, False)
