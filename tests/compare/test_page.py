"""The page of `compare.py`: which pictures it shows, that it stands alone, and what it does in a browser."""

import hashlib
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from builders import make
from PIL import Image

from segrefine.compare import differing
from segrefine.compare.difference import Difference
from segrefine.compare.differing import measure, rank
from segrefine.compare.page import MOST_ROWS, Page, write_page
from segrefine.compare.pictures import MAPS, Picture, Pictures, Shares, choose_pictures
from segrefine.compare.ranking import Ranked
from segrefine.compare.tables import new_table
from segrefine.compare.variants import Variant
from segrefine.core.config import read_group
from segrefine.core.labels import VOID
from segrefine.data.sets.shapes import ShapesDataModule
from segrefine.data.shapes.scenes import CLASSES
from segrefine.runs.folder import RunFolder, label_name
from segrefine.runs.read import Run
from segrefine.runs.summary import Summary
from segrefine.viz import VOID_COLOR, colorize, error_map

# Minus signs are typographical on the page.
# ruff: noqa: RUF001
COUNT = 4
HOSTILE = "<script>alert(1)</script> \"quoted\" 'single' & \udcff {{ script }} </script><!--"
SHOWN = HOSTILE.replace("\udcff", "\\udcff")


@pytest.fixture(scope="module")
def scenes() -> ShapesDataModule:
    return make(ShapesDataModule, test_size=COUNT)


def wrong_rows(truth: np.ndarray, rows: int) -> np.ndarray:
    """The truth with as many of the first rows predicted as the class that follows."""
    prediction = truth.copy()
    prediction[:rows] = (prediction[:rows] + 1) % len(CLASSES)
    return prediction


def make_variant(folder: Path, label: str, scenes: ShapesDataModule, rows: list[int]) -> Variant:
    """A run as `train.py` leaves it, whose prediction of image i has its first `rows[i]` rows wrong."""
    dataset = scenes.dataset("test")
    for index, name in enumerate(dataset.ids[: len(rows)]):
        path = folder / "predictions" / label_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(wrong_rows(dataset.read_label(index).numpy(), rows[index])).save(path)
    config = {"datamodule": read_group("datamodule", "shapes") | {"test_size": COUNT}}
    names = {"model": label, "backbone": "resnet18", "datamodule": "shapes"}
    summary = Summary(**names, split="test", seed=0, params=1, flops=1, mIoU=None)
    counts = np.empty((COUNT, 0, len(CLASSES)))
    run = Run(RunFolder(folder), config, summary, tuple(dataset.ids), tuple(CLASSES), (), counts)
    return Variant(label, (run,))


@pytest.fixture
def variants(tmp_path: Path, scenes: ShapesDataModule) -> list[Variant]:
    """One differs from two most in image 3, from three in image 0; two from three in image 3."""
    rows = {"one": [0, 0, 0, 0], "two": [16, 0, 32, 128], "three": [64, 8, 32, 0]}
    return [make_variant(tmp_path / label, label, scenes, rows[label]) for label in rows]


def test_shares_are_of_the_pixels_that_are_not_void() -> None:
    truth = np.array([[VOID, VOID], [0, 1]], np.uint8)
    shares = measure(truth, np.array([[[0, 1], [0, 1]], [[1, 0], [0, 2]], [[1, 0], [1, 1]]], np.uint8))
    assert shares.differing.tolist() == [[0, 0.5, 0.5], [0.5, 0, 1], [0.5, 1, 0]]
    assert shares.wrong.tolist() == [0, 0.5, 0.5]
    assert measure(np.full((2, 2), VOID, np.uint8), np.zeros((2, 2, 2), np.uint8)).differing.tolist() == [
        [0, 0],
        [0, 0],
    ]


def test_every_pair_has_its_most_different_images_first() -> None:
    def shares(one_two: float, one_three: float, two_three: float) -> Shares:
        matrix = np.zeros((3, 3))
        matrix[0, 1], matrix[0, 2], matrix[1, 2] = one_two, one_three, two_three
        return Shares(matrix + matrix.T, np.zeros(3))

    found = {"a": shares(0.5, 0, 0.1), "b": shares(0.4, 0, 0), "c": shares(0, 0.1, 0.2), "d": shares(0, 0.05, 0)}
    assert rank(found) == ["a", "c", "b", "d"]
    assert rank({}) == []


def test_pictures_are_those_that_differ_most(variants: list[Variant], scenes: ShapesDataModule) -> None:
    pictures, remarks = choose_pictures(variants, limit=2)
    assert pictures is not None
    assert remarks == []
    assert pictures.labels == ("one", "two", "three")
    assert pictures.classes == tuple(CLASSES)
    assert [picture.id for picture in pictures.items] == ["test_00003", "test_00000"]
    first = pictures.items[0]
    image, truth = scenes.dataset("test").read(3)
    np.testing.assert_array_equal(first.image, image.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(first.truth, truth.numpy())
    np.testing.assert_array_equal(first.predictions[1], wrong_rows(truth.numpy(), 128))
    assert first.shares.differing[0].tolist() == [0, 1, 0]
    assert pictures.items[1].shares.wrong.tolist() == [0, 1 / 8, 1 / 2]


def test_large_pictures_are_reduced_but_their_shares_are_not(
    variants: list[Variant], scenes: ShapesDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differing, "MAX_SIDE", 32)
    pictures, _ = choose_pictures(variants)
    assert pictures is not None
    assert len(pictures.items) == COUNT
    dataset = scenes.dataset("test")
    for picture in pictures.items:
        assert picture.image.shape == (32, 32, 3)
        assert picture.predictions.shape == (3, 32, 32)
        whole = dataset.read_label(dataset.ids.index(picture.id)).numpy()
        np.testing.assert_array_equal(picture.truth, whole[2::4, 2::4])
        np.testing.assert_array_equal(picture.predictions[0], whole[2::4, 2::4])
    assert next(item for item in pictures.items if item.id == "test_00001").shares.wrong[2] == 8 / 128


def test_variants_without_predictions_are_named(variants: list[Variant]) -> None:
    shutil.rmtree(variants[1].runs[0].folder.predictions)
    pictures, remarks = choose_pictures(variants)
    assert pictures is not None
    assert pictures.labels == ("one", "three")
    assert len(remarks) == 1
    assert "no predictions of two" in remarks[0]
    shutil.rmtree(variants[2].runs[0].folder.predictions)
    pictures, remarks = choose_pictures(variants)
    assert pictures is None
    assert "two, three" in remarks[0]
    assert "need the predictions of two models" in remarks[1]


def test_a_later_seed_stands_in_for_one_without_predictions(variants: list[Variant], tmp_path: Path) -> None:
    bare = replace(variants[0].runs[0], folder=RunFolder(tmp_path / "bare"))
    pictures, remarks = choose_pictures([Variant("one", (bare, *variants[0].runs)), variants[1]])
    assert pictures is not None
    assert remarks == []


def test_without_the_data_there_is_a_reason(variants: list[Variant], tmp_path: Path) -> None:
    run = variants[0].runs[0]
    gone = read_group("datamodule", "voc2012") | {"root": str(tmp_path / "gone"), "download": True}
    moved = replace(run, config={"datamodule": gone})
    pictures, remarks = choose_pictures([Variant("one", (moved,)), *variants[1:]])
    assert pictures is None
    assert "the data cannot be read: datamodule.root=" in remarks[0]
    pictures, remarks = choose_pictures([Variant("one", (replace(run, config={}),)), *variants[1:]])
    assert pictures is None


def test_images_that_cannot_be_used_are_left_out(variants: list[Variant]) -> None:
    folder = variants[2].runs[0].folder.predictions
    (folder / label_name("test_00003")).unlink()
    (folder / label_name("test_00000")).write_bytes(b"no picture")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(folder / label_name("test_00001"))
    pictures, remarks = choose_pictures(variants)
    assert pictures is not None
    assert [picture.id for picture in pictures.items] == ["test_00002"]
    assert len(remarks) == 1
    assert remarks[0].startswith("3 of the images are not shown")
    (folder / label_name("test_00002")).write_bytes(b"")
    (folder / label_name("test_00003")).write_bytes(b"")
    assert choose_pictures(variants)[0] is None


def make_pictures(names: tuple[str, ...], labels: tuple[str, ...] = ("one", "two", HOSTILE)) -> Pictures:
    """Image i of 24 x 16: one is right, two wrong in the first i rows, the third in the last 2 (count - i) rows."""
    rng = np.random.default_rng(0)
    items = []
    for index, name in enumerate(names):
        truth = np.tile(np.repeat(np.arange(3, dtype=np.uint8), 8), (16, 1))
        truth[:, :2] = VOID
        rows = np.arange(16)[:, None] * np.ones_like(truth)
        late = rows >= 16 - 2 * (len(names) - index)
        wrong = [np.zeros_like(late), rows < index, late]
        right = np.where(truth == VOID, 0, truth)
        predictions = np.stack([np.where(mask, (right + 1) % 3, right) for mask in wrong]).astype(np.uint8)
        image = rng.integers(0, 256, (16, 24, 3), np.uint8)
        items.append(Picture(name, image, truth, predictions, measure(truth, predictions)))
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], np.uint8)
    return Pictures(labels, ("ground", HOSTILE, "sky"), palette, tuple(items))


TABLE = new_table(("Model", "mIoU"), (("a", "9.5 ± 0.2"), ("b", "absent"), ("c", "61.0")))
MORE = {"More": new_table(("Class", SHOWN), (("disc", HOSTILE), ("x" * 200, "0.50")))}
PLOT = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3"><rect width="4" height="3" fill="green"/></svg>'


ONE_TWO = ("one", "two", HOSTILE)


def make_ranking(names: tuple[str, ...] = ONE_TWO) -> list[Ranked]:
    """Scores 0.9, 0.8, .. give or take 0.05."""
    about = {"model": "fcn8s", "backbone": "resnet18", "datamodule": "shapes", "split": "test", "seed": 0}
    summary = Summary(**about, params=2_000_000, flops=3_000_000_000, mIoU=None)
    run = Run(RunFolder(Path("x")), {}, summary, (), (), (), np.empty((0, 0, 0)))
    scores = [0.9 - 0.1 * place for place in range(len(names))]
    return [
        Ranked(Variant(name, (run,)), at, at - 0.05, at + 0.05, "ab") for name, at in zip(names, scores, strict=True)
    ]


def make_differences(names: tuple[str, ...] = ONE_TWO) -> list[Difference]:
    """Every pair, 10 points a place with an interval of 15 to each side."""
    pairs = [(one, other) for one in range(len(names)) for other in range(one)]
    return [
        Difference(names[one], names[other], "mIoU", at, at - 0.15, at + 0.15, 0.1, 0.25, (1, 1))
        for one, other in pairs
        for at in [-0.1 * (one - other)]
    ]


def make_page(**parts: Any) -> Page:
    content: dict[str, Any] = {"title": "Title", "answer": [], "shared": "", "ranking": make_ranking(), "front": PLOT}
    content |= {"differences": [], "plots": {}, "pictures": None, "tables": {}, "notes": []}
    return Page(**content | parts)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    names = ("first", f"second {HOSTILE}", "third", "fourth")
    path = tmp_path / "made" / "page.html"
    whole = make_page(
        title=f"Title {HOSTILE}",
        answer=[f"Answer {HOSTILE}"],
        shared=HOSTILE,
        differences=make_differences(),
        plots={"Plot": PLOT},
        pictures=make_pictures(names),
        tables={f"Scores {HOSTILE}": TABLE} | MORE,
        notes=[HOSTILE],
    )
    write_page(path, whole)
    return path


def embedded(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def decoded(uri: str, mode: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert(mode))


def test_the_file_stands_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text
    allowed, script = re.findall(r"script-src 'sha256-(.*?)'|<script>(.*?)</script>", text, re.DOTALL)
    assert b64decode(allowed[0]) == hashlib.sha256(script[1].encode()).digest()
    assert not re.search("{%|{#", text)
    places = [text.index(f">{name}</h") for name in ("Differences", "Plots", "Pictures", "More", "Notes")]
    assert places == sorted(places)


def test_no_name_becomes_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == text.count("</script>") == 3
    data = embedded(page)
    assert data["models"][2] == data["classes"][1]["name"] == SHOWN
    assert data["images"][1]["id"] == f"second {SHOWN}"
    table = ElementTree.fromstring(re.findall(r"<table>.*?</table>", text, re.DOTALL)[-1])
    cells = [cell.text for kind in ("th", "td") for cell in table.iter(kind)]
    assert cells == ["Class", SHOWN, "disc", SHOWN, "x" * 200, "0.50"]


def test_embedded_pictures_are_those_of_panels(page: Path) -> None:
    pictures = make_pictures(("first", "second", "third", "fourth"))
    for picture, shown in zip(pictures.items, embedded(page)["images"], strict=True):
        np.testing.assert_array_equal(decoded(shown["truth"], "RGB"), colorize(picture.truth, pictures.palette))
        faded = error_map(picture.image, picture.truth * 0, picture.truth * 0)
        for labels, prediction, error in zip(picture.predictions, shown["predictions"], shown["errors"], strict=True):
            np.testing.assert_array_equal(decoded(prediction, "RGB"), colorize(labels, pictures.palette))
            layer = decoded(error, "RGBA")
            laid_over = np.where(layer[..., 3:] == 255, layer[..., :3], faded)
            np.testing.assert_array_equal(laid_over, error_map(picture.image, picture.truth, labels))
        difference = decoded(shown["input"], "RGB").astype(int) - picture.image
        assert np.abs(difference).mean() < 12  # of noise, the hardest for JPEG
        assert shown["wrong"] == picture.shares.wrong.round(4).tolist()
    assert bytes.fromhex(embedded(page)["classes"][VOID]["color"][1:]) == bytes(VOID_COLOR)


def test_a_page_without_pictures_says_why(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", make_page(tables={"Scores": TABLE}, notes=["No <pictures>."]))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No &lt;pictures&gt;." in text
    assert 'id="pictures"' not in text
    assert 'id="plots"' not in text
    assert 'id="differences"' not in text
    assert text.count("<table>") == 1


def test_the_page_of_many_pictures_stays_small(tmp_path: Path, scenes: ShapesDataModule) -> None:
    image, truth = scenes.dataset("test").read(0)
    pixels, labels = image.permute(1, 2, 0).numpy(), truth.numpy()
    noise = np.random.default_rng(0)
    predictions = np.stack([np.where(noise.random(labels.shape) < 0.05, 1, labels) for _ in range(8)]).astype(np.uint8)
    item = Picture("x", pixels, labels, predictions, measure(labels, predictions))
    pictures = Pictures(tuple("abcdefgh"), tuple(CLASSES), scenes.palette, (item,) * (MAPS // 8))
    write_page(tmp_path / "page.html", make_page(pictures=pictures))
    assert (tmp_path / "page.html").stat().st_size < 5_000_000


def test_a_table_too_long_for_a_page_is_named(tmp_path: Path) -> None:
    long = new_table(("Row",), [("tiny row",)] * (MOST_ROWS + 1))
    write_page(tmp_path / "page.html", make_page(tables={"Long": long}))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "tiny row" not in text
    assert "<h2>Long</h2><p>This table is too long for a page. See the files beside this page.</p>" in text


def test_the_ranking_draws_every_interval_in_one_range(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", make_page(ranking=make_ranking()))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    places = [
        [float(value) for value in row] for row in re.findall(r"left:([\d.]+)%;right:([\d.]+)%.*?left:([\d.]+)%", text)
    ]
    # From 0.65 to 0.95, with 4 % of that to each side.
    ends = [
        [100 * (at - 0.65 + 0.012) / 0.324 for at in (score - 0.05, score, score + 0.05)] for score in (0.9, 0.8, 0.7)
    ]
    np.testing.assert_allclose(places, [[low, 100 - high, at] for low, at, high in ends], atol=0.01)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs the browser chromium")
    options = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    more = ("--disable-component-update", "--disable-sync")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=[*options, *more])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(browser: Any, page: Path) -> Iterator[Any]:
    """The page in a browser window; a message in its console or a request for anything else fails the test."""
    # Without motion: a screenshot during a smooth scroll would be of another place.
    shown = browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    messages: list[str] = []
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    shown.on("request", lambda request: request.url.startswith("data:") or messages.append(request.url))
    shown.goto(page.as_uri())
    yield shown
    shown.close()
    assert messages == [page.as_uri()]


def titles(shown: Any) -> list[str]:
    return shown.locator(".card header button").all_inner_texts()


def pixels(shown: Any, selector: str) -> np.ndarray:
    """What an element looks like once its pictures are decoded, (H, W, 3)."""
    shown.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    return np.asarray(Image.open(BytesIO(shown.locator(selector).screenshot())).convert("RGB")).astype(int)


def test_the_gallery_follows_the_choice_of_models(browser_page: Any) -> None:
    shown = browser_page
    second = f"second {SHOWN}"
    assert titles(shown) == ["fourth", "third", second, "first"]
    assert shown.locator(".card .share").first.inner_text() == "18.8 % of the pixels differ"
    shown.select_option("#model-b", "2")
    assert titles(shown) == ["first", second, "third", "fourth"]
    assert shown.locator("#model-b option:checked").inner_text() == SHOWN
    shown.select_option("#model-a", "2")  # which B was: they change places
    assert shown.locator("#model-b").input_value() == "0"
    assert shown.locator("h1").inner_text() == f"Title {SHOWN}"
    assert shown.locator("#legend li").all_inner_texts() == [
        "ground",
        SHOWN,
        "sky",
        "void",
        "wrong",
        "void (in errors)",
    ]
    shown.evaluate("Promise.all([...document.images].map((image) => image.decode()))")  # fails if one is broken


def test_the_slider_wipes_between_two_models(browser_page: Any) -> None:
    shown = browser_page
    shown.locator(".card header button").nth(1).press("Enter")
    assert shown.locator("#viewer-title").inner_text() == "third"
    wipe, side = shown.locator("#wipe"), shown.locator("#side-a")
    assert wipe.evaluate("(node) => node === document.activeElement")  # arrows move it at once
    half, clipped = pixels(shown, "#stage"), side.evaluate("(node) => getComputedStyle(node).clipPath")
    wipe.press("Home")
    assert wipe.input_value() == "0"
    assert side.evaluate("(node) => getComputedStyle(node).clipPath") != clipped
    only_b = pixels(shown, "#stage")
    wipe.press("End")
    only_a = pixels(shown, "#stage")
    top, middle, below = 20, half.shape[1] // 2, half.shape[0] - 60
    quarter = half.shape[1] // 4
    assert (only_a[top, quarter] != only_b[top, quarter]).any()  # two is wrong in the first rows
    np.testing.assert_array_equal(only_a[below, quarter], only_b[below, quarter])
    np.testing.assert_array_equal(half[top, quarter], only_a[top, quarter])
    np.testing.assert_array_equal(half[top, middle + quarter], only_b[top, middle + quarter])

    box = shown.locator("#stage").bounding_box()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    shown.mouse.down()
    shown.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 100)
    shown.mouse.up()
    shown.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 100)
    assert wipe.input_value() == "25"


def test_the_viewer_shows_overlay_error_and_all_models(browser_page: Any) -> None:
    shown = browser_page
    shown.locator(".card .stack").first.click()
    seen = [pixels(shown, "#side-b")]
    for kind in ("Overlay", "Error"):
        shown.get_by_role("radio", name=kind).check(force=True)
        seen.append(pixels(shown, "#side-b"))
    assert (seen[0] != seen[1]).any()
    assert (seen[1] != seen[2]).any()
    assert (seen[2] == (214, 39, 40)).all(-1).any()
    assert [name.split("\n")[0] for name in shown.locator("#strip figcaption .text").all_inner_texts()] == [
        *("Input", "Truth", "one", "two"),
        SHOWN,
    ]
    shown.get_by_role("button", name=f"{SHOWN} as B").click()
    assert shown.locator("#tag-b").inner_text() == SHOWN
    assert shown.locator("#viewer-title").inner_text() == "fourth"
    shown.locator("#previous").click()
    assert shown.locator("#viewer-title").inner_text() == "third"
    shown.keyboard.press("Escape")
    assert not shown.locator("#viewer").is_visible()
    assert shown.locator(".card header button:focus").inner_text() == "third"


def test_a_click_on_a_header_sorts(browser_page: Any) -> None:
    header = browser_page.get_by_role("button", name="mIoU")
    first = browser_page.locator("#table-1 tbody td:first-child")
    header.click()
    assert first.all_inner_texts() == ["c", "a", "b"]
    header.click()
    assert first.all_inner_texts() == ["a", "c", "b"]
    assert browser_page.locator("th[aria-sort=ascending]").inner_text().startswith("mIoU")


def test_the_baseline_turns_the_differences(browser_page: Any) -> None:
    rows = browser_page.locator("#forest li")
    assert rows.locator(".who").all_inner_texts() == ["two", SHOWN]
    assert rows.first.locator(".words").inner_text().split("\n") == ["−10.0 points (−25.0 to +5.0)", "undecided"]
    assert rows.last.locator(".words").inner_text().split("\n")[1] == "worse"
    browser_page.select_option("#baseline", "2")
    assert rows.locator(".who").all_inner_texts() == ["one", "two"]
    assert rows.first.locator(".words").inner_text().split("\n") == ["+20.0 points (+5.0 to +35.0)", "better"]
    zero, dot = (rows.first.locator(part).bounding_box()["x"] for part in (".range u", ".range b"))
    assert zero < dot


def test_a_cell_of_the_matrix_shows_its_pair_and_pictures(browser_page: Any) -> None:
    matrix = browser_page.locator("#matrix")
    assert matrix.locator("tbody button").all_inner_texts() == ["+10.0", "+20.0", "−10.0", "+10.0", "−20.0", "−10.0"]
    matrix.locator("tbody button").nth(4).press("Enter")
    pair = browser_page.locator("#pair")
    assert pair.inner_text().startswith(
        f"{SHOWN} against one: −20.0 points (−35.0 to −5.0), worse. A seed of the first "
    )
    assert "in 25.0 % of pairs" in pair.inner_text()
    assert matrix.locator("[aria-pressed=true]").inner_text() == "−20.0"
    pair.get_by_role("link").click()
    chosen = [browser_page.locator(f"#model-{side} option:checked").inner_text() for side in "ab"]
    assert chosen == [SHOWN, "one"]


def test_long_tables_can_be_searched(tmp_path: Path, browser: Any) -> None:
    rows = [(f"name {number}", "even" if number % 2 == 0 else "odd") for number in range(20)]
    write_page(tmp_path / "page.html", make_page(tables={"Long": new_table(("Name", "Kind"), rows), "Short": TABLE}))
    shown = browser.new_page()
    shown.goto((tmp_path / "page.html").as_uri())
    assert shown.locator("input[type=search]").count() == 1
    shown.locator("input[type=search]").fill("1 ODD")
    left = shown.locator("#table-1 tbody tr:visible td:first-child").all_inner_texts()
    assert left == ["name 1", "name 11", "name 13", "name 15", "name 17", "name 19"]
    shown.close()


def test_the_page_of_many_variants_is_quick_and_small(tmp_path: Path, browser: Any) -> None:
    names = tuple(f"variant {number}" for number in range(50))
    table = new_table(tuple("abcdefghi"), [tuple("123456789")] * (50 * 49 // 2))
    path = tmp_path / "page.html"
    write_page(path, make_page(ranking=make_ranking(names), differences=make_differences(names), tables={"T": table}))
    assert path.stat().st_size < 2_000_000
    shown = browser.new_page()
    shown.goto(path.as_uri())
    seconds = shown.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
    assert seconds < 10  # under 2 on a quiet machine (docs/statistics.md)
    assert shown.locator("#matrix button").count() == 50 * 49
    shown.close()


@pytest.mark.parametrize("width", [400, 1300, 2000])
def test_the_answer_fits_every_screen(browser_page: Any, width: int) -> None:
    browser_page.set_viewport_size({"width": width, "height": 900})
    assert browser_page.evaluate("document.documentElement.scrollWidth") == width
    for selector in (".answer", ".ranking tbody tr:first-child .range"):
        box = browser_page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] < 900, selector
        assert box["width"] > 20, selector


def test_the_page_fits_a_phone(browser_page: Any) -> None:
    browser_page.set_viewport_size({"width": 360, "height": 740})
    assert browser_page.evaluate("document.documentElement.scrollWidth") == 360
    browser_page.locator(".card header button").first.click()
    assert browser_page.locator("#viewer").evaluate("(node) => node.scrollWidth <= node.clientWidth")
