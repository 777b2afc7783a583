"""`predict.py` on the files people have: any size, any common format, and the broken ones named."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NARROW_PROCESS, TypeIn
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from segrefine.core.config import read_group
from segrefine.core.labels import voc_color_map
from segrefine.core.signals import REQUEUE, StopRequest
from segrefine.engine.callbacks.pictures import write_pictures
from segrefine.engine.predict import PhotoWriter, Segmenter, segment
from segrefine.models.build import create_model
from segrefine.models.crf import create_refinement
from segrefine.models.network import SegmentationModel
from segrefine.models.tta import TestTimeAugmentation
from segrefine.weights.checkpoint import KEY, describe

CHECKOUT = Path(__file__).parents[2]
CLASSES = ["left", "right", "none"]


@pytest.fixture(scope="module")
def net(narrow: None) -> SegmentationModel:
    torch.manual_seed(0)
    net = create_model("refinenet_lw", "resnet18", 3, widths={4: 8, 8: 8, 16: 8, 32: 8}).eval()
    torch.nn.init.normal_(net.decoder.classifier.weight)
    return net


@pytest.fixture(scope="module")
def checkpoint(net: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    model = read_group("model", "refinenet_lw") | {"widths": {4: 8, 8: 8, 16: 8, 32: 8}}
    # A backbone file that is gone by now must not be missed: the checkpoint has all weights.
    config = {"model": model, "backbone": {"name": "resnet18", "weights": "gone.pth"}, "datamodule": {"name": "none"}}
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": tensors, KEY: describe(config, CLASSES, voc_color_map(3))}, path)
    return path


def odd_images(folder: Path) -> None:
    """A dozen files: every mode, a tiny one, a large one, one turned by EXIF, two of one stem, and a truncated one."""
    rng = np.random.default_rng(0)
    colors = Image.fromarray(rng.integers(0, 255, (67, 45, 3), np.uint8))
    colors.save(folder / "rgb.jpg")
    colors.save(folder / "rgb.png")
    colors.convert("L").save(folder / "grey.png")
    colors.convert("RGBA").save(folder / "alpha.png")
    colors.convert("P").save(folder / "palette.png")
    colors.convert("CMYK").save(folder / "cmyk.jpg")
    colors.convert("1").save(folder / "black_and_white.png")
    Image.fromarray(rng.integers(0, 65535, (67, 45), np.uint16)).save(folder / "deep.png")
    Image.fromarray(rng.integers(0, 255, (1, 3, 3), np.uint8)).save(folder / "tiny.png")
    Image.fromarray(rng.integers(0, 255, (1300, 700, 3), np.uint8)).save(folder / "large.webp")
    exif = Image.Exif()
    exif[274] = 6  # a camera held upright
    colors.save(folder / "turned.jpg", exif=exif)
    content = (folder / "rgb.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("no image")


def test_a_folder_of_odd_images(checkpoint: Path, tmp_path: Path, type_in: TypeIn) -> None:
    (tmp_path / "in").mkdir()
    odd_images(tmp_path / "in")
    result = type_in("predict.py", f"checkpoint={checkpoint}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}")
    assert result.returncode == 1
    assert "skipped" in result.stderr
    assert "truncated.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    assert "11 of 12 images segmented" in result.stderr
    sizes = {}
    for path in (tmp_path / "out").glob("*_label.png"):
        with Image.open(path) as label:
            sizes[path.name.removesuffix("_label.png")] = label.size
            assert label.mode == "L"
            assert set(np.unique(np.asarray(label))) <= {0, 1, 2}
    ordinary = ("rgb.jpg", "rgb.png", "grey", "alpha", "palette", "cmyk", "black_and_white", "deep")
    assert sizes == dict.fromkeys(ordinary, (45, 67)) | {"tiny": (3, 1), "large": (700, 1300), "turned": (67, 45)}
    assert len(list((tmp_path / "out").iterdir())) == 3 * 11 + 1
    with Image.open(tmp_path / "out/legend.png") as legend:
        shown = {color for _, color in legend.getcolors(2**16)}  # type: ignore[union-attr]
    assert {tuple(color) for color in voc_color_map(3).tolist()} <= shown


def test_one_file_with_every_option(checkpoint: Path, tmp_path: Path, net: SegmentationModel, type_in: TypeIn) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (80, 100, 3), np.uint8)).save(tmp_path / "photo.png")
    options = ["tta.scales=[0.5,1.0]", "tta.flip=true", "window=[64,48]", "precision=32-true", "device=cpu", "post=crf"]
    result = type_in(
        "predict.py",
        f"checkpoint={checkpoint}",
        f"input={tmp_path / 'photo.png'}",
        f"output={tmp_path / 'out'}",
        *options,
    )
    assert result.returncode == 0, result.stderr
    label = np.asarray(Image.open(tmp_path / "out/photo_label.png"))
    image = torch.from_numpy(np.array(Image.open(tmp_path / "photo.png"))).permute(2, 0, 1)
    refine = create_refinement(net, "crf", {})
    expected = segment(net, TestTimeAugmentation(net, [0.5, 1.0], True, (64, 48), refine), image)
    assert (label == expected.numpy()).mean() > 0.99  # ties aside
    colors = np.asarray(Image.open(tmp_path / "out/photo_colour.png"))
    np.testing.assert_array_equal(colors, voc_color_map(3)[label])


def test_names_are_unique_among_all_that_are_given(checkpoint: Path, tmp_path: Path, type_in: TypeIn) -> None:
    names = {"a.jpg": "a.jpg", "a.png": "a.png", "a.jpg.png": "a.jpg.png", "b.png": "b", "c.jpg": "c"}
    sizes = {name: (40 + index, 33) for index, name in enumerate(names)}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b").touch()  # no image, so b.png may be called b
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / "in" / name)
    assert type_in("predict.py", f"checkpoint={checkpoint}", "input=in", "output=out").returncode == 0
    written = {}
    for path in (tmp_path / "out").glob("*_label.png"):
        with Image.open(path) as label:
            written[path.name.removesuffix("_label.png")] = label.size
    assert written == {names[name]: size for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("names", "options", "overwritten"),
    [
        (["a.png", "a_label.png"], [], "a_label.png"),
        (["a.png", "a_overlay.png"], [], "a_overlay.png"),
        (["a.png", "legend.png"], [], "legend.png"),
        (["a.png"], ["submission=voc"], "a.png"),
    ],
)
def test_no_image_is_overwritten(
    names: list[str], options: list[str], overwritten: str, checkpoint: Path, tmp_path: Path, type_in: TypeIn
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    for name in names:
        Image.new("RGB", (40, 40), "red").save(tmp_path / "in" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    result = type_in("predict.py", f"checkpoint={checkpoint}", "input=in", "output=link", *options)
    assert result.returncode == 2
    assert f"output=link: {overwritten} would overwrite an input image. Give another folder." in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, REQUEUE), (signal.SIGINT, 130)])
def test_a_signal_ends_it_at_once(
    number: int, status: int, checkpoint: Path, tmp_path: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segrefine.engine.predict.segment", lambda *_: os.kill(os.getpid(), number))
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    before = signal.getsignal(number)
    result = type_in("predict.py", f"checkpoint={checkpoint}", "input=photo.png", "output=out")
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(number) == before


def test_every_image_is_in_the_share_of_one_process(net: SegmentationModel) -> None:
    files = [(str(index), Path(f"{index}.png"), None) for index in range(5)]
    shares = []
    for rank in range(7):
        module = Segmenter(net, files, {}, None)
        module._trainer = SimpleNamespace(global_rank=rank, world_size=7)  # type: ignore[assignment]
        shares.append([photo[0] for photo in module.predict_dataloader()])
    assert shares == [["0"], ["1"], ["2"], ["3"], ["4"], [], []]


@pytest.mark.slow
def test_processes_share_the_images(checkpoint: Path, tmp_path: Path) -> None:
    """Each is segmented once; every unreadable file is named, and counted whichever process met it."""
    (tmp_path / "in").mkdir()
    for index in range(4):
        Image.new("RGB", (40, 40 + index)).save(tmp_path / "in" / f"{index}.png")
    for name in ("x.png", "y.png"):  # one for each process
        (tmp_path / "in" / name).write_bytes(b"no image")
    command = [sys.executable, CHECKOUT / "predict.py", f"checkpoint={checkpoint}", "input=in", "output=out"]
    command += ["device=cpu", "devices=2"]
    environment = os.environ | NARROW_PROCESS
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr
    lines = result.stderr.splitlines()
    assert sorted(line for line in lines if line.startswith("in/")) == [f"in/{n}.png: 40x{40 + n}" for n in range(4)]
    assert sum(line.startswith("skipped: in/") for line in lines) == 2
    assert lines[-2:] == ["classes of this network: left, right, none", "4 of 6 images segmented, in out"]
    assert len(list((tmp_path / "out").iterdir())) == 3 * 4 + 1


@pytest.mark.parametrize(("submission", "rank", "written"), [(None, 0, True), (None, 1, False), ("voc", 0, False)])
def test_the_first_process_writes_the_legend(
    submission: str | None, rank: int, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of published weights here, which name no classes. A benchmark takes no other files."""
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    module: Any = SimpleNamespace(net=SimpleNamespace(classes=[], palette=voc_color_map(21)))
    PhotoWriter(tmp_path, submission, StopRequest()).on_predict_end(Trainer(logger=False), module)
    assert (tmp_path / "legend.png").is_file() == written


NAMES = ["a", "a/b", "../a", "/a", "//a", "../../a", "a/../../a", "..", ".", "/", "x" * 255, "x" * 254, "line\nbreak"]


@pytest.mark.parametrize("submission", [None, "voc"])
def test_results_lie_in_their_folder_each_its_own(submission: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    image, labels = torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(4, 5, dtype=torch.uint8)
    for name in NAMES:
        write_pictures(folder, name, image, labels, voc_color_map(3), submission)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    # "/a" and "//a" are one path
    assert len(written) == (len(NAMES) - 1) * (3 if submission is None else 1)
    assert all(folder in path.parents for path in written)
    assert (folder / ("a_label.png" if submission is None else "a.png")).is_file()  # ordinary names stay


def test_names_of_files_reach_the_terminal_in_words(checkpoint: Path, tmp_path: Path, type_in: TypeIn) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "red\x1b[31m.png")
    (tmp_path / "in" / "broken\x1b]0;title\x07.png").write_bytes(b"no image")
    (tmp_path / "in" / os.fsdecode(b"latin-\xe9.png")).write_bytes(b"no image")
    result = type_in("predict.py", f"checkpoint={checkpoint}", "input=in", "output=out")
    assert result.returncode == 1
    assert "in/red\\x1b[31m.png: 40x40" in result.stderr
    assert "broken\\x1b]0;title\\x07.png" in result.stderr
    assert "latin-\\udce9.png" in result.stderr
    assert not {"\x1b", "\x07"} & set(result.stderr)
    assert "Logging error" not in result.stderr
    result = type_in("predict.py", f"checkpoint={checkpoint}", "input=gone\x1b[31m", "output=out")
    assert result.returncode == 2
    assert "\x1b" not in result.stderr


def test_a_small_image_is_segmented_as_if_it_went_on(net: SegmentationModel) -> None:
    image = torch.randint(0, 255, (3, 20, 40), dtype=torch.uint8)
    extended = torch.cat([image, image[:, -1:].expand(3, 12, 40)], dim=1)
    with torch.no_grad():
        expected = net(net.preprocess(extended[None].float() / 255))[0, :, :20].argmax(0)
    assert torch.equal(segment(net, TestTimeAugmentation(net), image).long(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "gone"}, "There is no file or folder gone"),
        ({"device": "tpu"}, "device=tpu should be auto, cpu or cuda"),
        ({"precision": "fp8"}, "error: precision=fp8 is not known"),
        ({"tta.scales": "[0]"}, "tta.scales=[0] should be above 0"),
    ],
)
def test_mistakes_are_told_in_words(
    change: dict[str, str], message: str, checkpoint: Path, tmp_path: Path, type_in: TypeIn
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    options = {"checkpoint": checkpoint, "input": tmp_path / "photo.png", "output": tmp_path / "out"} | change
    result = type_in("predict.py", *(f"{name}={value}" for name, value in options.items()))
    assert result.returncode == 2
    assert message in "\n" + result.stderr
    assert "Traceback" not in result.stderr
