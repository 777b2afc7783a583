"""Tables in three forms, with names that mean something in one of them; plots that hold what they should."""

import csv
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import CLASSES, fake_variants
from matplotlib.figure import Figure

from segrefine.compare.costs import Measurement, describe_costs, judge_costs
from segrefine.compare.figures import as_svg
from segrefine.compare.plots import PLOTS, accuracy_and_flops, difference_bars, draw_all, pareto_front
from segrefine.compare.report import write_table
from segrefine.compare.statistics import Bootstrap, Settings
from segrefine.compare.tables import differences, mean_and_deviation, new_table, overview, per_class
from segrefine.compare.variants import Variant

COLUMNS, ROWS = ("a|b", "50 %"), (("<b>&_$", 'say "x"\nnext'), ("±", "\\"), ("0.50", "x" * 200))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "hostile"
    write_table(path, new_table(COLUMNS, ROWS))
    return path


def test_markdown_keeps_its_columns(hostile: Path) -> None:
    lines = hostile.with_suffix(".md").read_text().splitlines()
    assert lines[0] == r"| a\|b | 50 % |"
    assert lines[2] == r'| <b>&_$ | say "x" next |'
    assert len(lines) == 5


def test_csv_comes_back(hostile: Path) -> None:
    with hostile.with_suffix(".csv").open(newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [COLUMNS, *ROWS]


def test_latex_is_escaped(hostile: Path) -> None:
    text = hostile.with_suffix(".tex").read_text()
    assert r"a|b & 50 \%" in text
    assert r"<b>\&\_\$" in text
    assert "$\\pm$ & \\textbackslash " in text
    assert f"0.50 & {'x' * 200} " in text
    assert text.startswith("\\begin{tabular}{lr}\n\\toprule")


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    assert mean_and_deviation([0.5, 0.6, 0.7]) == "0.600 ± 0.100"
    assert mean_and_deviation([0.25]) == "0.250"
    assert mean_and_deviation([0.5, float("nan")]) == "absent"


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    return fake_variants(tmp_path, {"fcn8s": 0.85, "refinenet": 0.8}, images=30)


def test_overview_holds_means_costs_and_seeds(variants: list[Variant]) -> None:
    table = overview(variants)
    row = table.iloc[0]
    scores = [run.summary.mIoU for run in variants[0].runs]
    assert row["mIoU"] == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    assert row["variant"] == "fcn8s"
    assert row["seeds"] == "3"
    assert row["parameters (M)"] == "11.00"
    assert row["multiply-adds (G, 128x128)"] == "0.60"
    assert row["images/s"] == "40.0"
    assert row["peak memory (MiB)"] == "1024"
    assert per_class(variants)["class"].tolist() == list(CLASSES)


def test_differences_are_told_in_points(variants: list[Variant]) -> None:
    found = [Bootstrap(variants, settings=Settings(500)).difference(*variants)]
    row = differences(found).iloc[0]
    assert float(row["difference"]) == pytest.approx(100 * found[0].estimate, abs=0.01)
    assert row["verdict"] == found[0].verdict
    assert row["seeds"] == "3 and 3"
    assert row["P(above)"] == "1.00"


def test_front_is_what_nothing_beats_in_both() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.6), (3.0, 0.6), (0.5, 0.3), (1.0, 0.45)]
    assert pareto_front(points) == [4, 0, 2]
    assert pareto_front([]) == []


def test_every_plot_draws_every_variant(variants: list[Variant]) -> None:
    bootstrap = Bootstrap(variants, settings=Settings(200))
    figures = draw_all(variants, "mIoU", bootstrap)
    assert set(figures) == {"accuracy_and_cost", "classes", "regions", "learning_curves"}
    for name, figure in figures.items():
        shown = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        assert shown == {"fcn8s", "refinenet"}, name
        assert ElementTree.fromstring(as_svg(figure)).tag.endswith("svg")
    points = figures["learning_curves"].axes[0].lines[-1].get_xydata()
    curves = [run.curve("val/mIoU")[1] for run in variants[1].runs]
    np.testing.assert_allclose(points, np.stack([[100, 200], np.mean(curves, axis=0)], axis=1))
    assert isinstance(PLOTS["gradients"](variants, bootstrap), Figure)  # of runs that logged none


def test_many_variants_are_told_apart_in_a_legend_that_is_whole(variants: list[Variant]) -> None:
    many = [Variant(f"variant {number:02}", variants[0].runs) for number in range(32)]
    figures = draw_all(many, "mIoU", Bootstrap(many, settings=Settings(10)))
    for name in ("accuracy_and_cost", "regions", "learning_curves"):
        handles = figures[name].legends[0].get_lines()
        assert len({(line.get_color(), line.get_marker()) for line in handles}) == 32, name
    bars = figures["classes"].legends[0].get_patches()
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 32  # type: ignore[attr-defined]
    for name, figure in figures.items():
        figure.draw_without_rendering()
        assert figure.legends[0].get_window_extent().y0 >= 0, name


def test_numbers_of_points_at_one_place_stand_in_one_row(variants: list[Variant]) -> None:
    both = [*variants, Variant("again", variants[0].runs)]  # all cost the same here
    for names, expected in ((both, {"1, 3", "2"}), (variants, {"1", "2"}), (both * 2, {"1, … 6", "2, 5"})):
        (axis,) = accuracy_and_flops(names, "mIoU", Bootstrap(both, settings=Settings(10))).axes
        assert {text.get_text() for text in axis.texts} == expected


def test_runs_validated_once_have_no_curve(variants: list[Variant]) -> None:
    for run in (run for variant in variants for run in variant.runs):
        run.folder.metrics.write_text("step,val/mIoU\n199,0.5\n")
    assert "learning_curves" not in draw_all(variants, "mIoU", Bootstrap(variants, settings=Settings(200)))


def test_names_of_many_options_are_drawn_in_lines(variants: list[Variant]) -> None:
    long = [Variant(f"{variant.label} {'recipe.lr=0.0004 ' * 12}".strip(), variant.runs) for variant in variants]
    bootstrap = Bootstrap(long, settings=Settings(200))
    difference = difference_bars([bootstrap.difference(*long)])
    names = [text.get_text() for text in difference.axes[0].get_yticklabels()]
    legend = draw_all(long, "mIoU", bootstrap)["regions"].legends[0]
    names += [text.get_text() for text in legend.get_texts()]
    assert len(names) == 3
    assert all(len(line) <= 60 and name.count("lr=") >= 12 for name in names for line in name.split("\n"))


def test_names_are_not_taken_for_mathematics(variants: list[Variant]) -> None:
    odd = [Variant("_$x^$ & <b>", variants[0].runs)]
    bootstrap = Bootstrap([*odd, variants[1]], settings=Settings(200))
    found = [bootstrap.difference(odd[0], variants[1])]
    for figure in [*draw_all(odd, "mIoU", bootstrap).values(), difference_bars(found)]:
        assert "&lt;b&gt;" in as_svg(figure)


def test_costs_are_ratios_of_the_first_to_the_second() -> None:
    def measured(memory: float, work: float, time: float) -> Measurement:
        return Measurement((64, 64), (memory, 1.0), (work, 1.0), (time, 1.0), ((time, time), (1.0, 1.0)))

    one, other = measured(2.0, 1.5, 1.2), measured(3.0, 1.5, 0.9)
    networks = "fcn_dilated/resnet50", "folder/peer.py:refinenet"
    assert describe_costs([one, other], networks) == (
        "fcn_dilated over refinenet: memory 2.00 to 3.00, multiply-adds 1.50, time 0.90 to 1.20"
    )
    assert judge_costs([one]) == "holds"
    assert judge_costs([one, other]) == "in part: memory more, multiply-adds more, time depends on the size"
    assert judge_costs([measured(0.5, 0.5, 0.5)]) == "the opposite holds"
