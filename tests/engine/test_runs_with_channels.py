"""Runs on gray images and on RGB with more behind it, through every command."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import saved_pair
from conftest import TypeIn
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from segrefine.cli.options import GivenCheckpoint
from segrefine.compare.pictures import choose_pictures
from segrefine.compare.variants import group
from segrefine.core.config import CONFIG_FOLDER
from segrefine.core.errors import UserError
from segrefine.engine.evaluate import evaluate
from segrefine.engine.predict import predict
from segrefine.engine.resume import refuse_other_run
from segrefine.engine.train import train
from segrefine.models.build import create_model
from segrefine.models.network import SegmentationModel
from segrefine.runs.read import read_run
from segrefine.weights.checkpoint import load_model, load_weights, read_checkpoint
from segrefine.weights.export import FORMATS, export

pytestmark = pytest.mark.usefixtures("narrow")

SIZE = (41, 67)
EXTRA: dict[int, tuple[int, ...] | None] = {1: None, 4: SIZE, 6: (*SIZE, 3)}
TINY = [
    *("trainer=cpu", "trainer.precision=32-true", "recipe.schedule.warmup_steps=0", "logger=csv", "model=fcn32s"),
    *("model.upsample=interpolate", "datamodule=folder", "datamodule.classes=[a,b,c]", "datamodule.batch_size=2"),
    *("datamodule.crop_size=64", "datamodule.num_workers=0", "datamodule.augment.jitter=0.3"),
    *("trainer.max_epochs=-1", "trainer.max_steps=4"),
]


def write(root: Path, in_channels: int) -> Path:
    rng, extra = np.random.default_rng(in_channels), EXTRA[in_channels]
    for split, count in (("train", 4), ("val", 3)):
        for number in range(count):
            image = rng.integers(0, 256, SIZE if in_channels == 1 else (*SIZE, 3), np.uint8)
            behind = None if extra is None else rng.integers(0, 256, extra, np.uint8)
            saved_pair(root, split, f"{split}{number}", image, rng.integers(0, 3, SIZE, np.uint8), behind)
    return root


def read(root: Path, in_channels: int, number: int = 0) -> np.ndarray:
    """An image of val with all its channels, (H, W, in_channels)."""
    kinds = ("images",) if in_channels == 1 else ("images", "extra")
    arrays = [np.asarray(Image.open(root / kind / "val" / f"val{number}.png")) for kind in kinds]
    return np.concatenate([array.reshape(*SIZE, -1) for array in arrays], 2)


def config(command: str, *overrides: str) -> DictConfig:
    GivenCheckpoint().register(list(overrides))
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def trained(folder: Path, root: Path, in_channels: int, *overrides: str) -> Path:
    data = (f"datamodule.root={root}", f"datamodule.in_channels={in_channels}")
    train(config("train", *TINY, *data, *overrides), folder)
    return folder / "checkpoints/best.ckpt"


def classes(net: SegmentationModel, pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return net(net.preprocess(images))[0].argmax(0).numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def run(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run on RGB and depth: its folder, data and best checkpoint."""
    folder = tmp_path_factory.mktemp("channels")
    root = write(folder / "data", 4)
    return SimpleNamespace(folder=folder / "run", root=root, checkpoint=trained(folder / "run", root, 4))


def test_a_checkpoint_gives_the_network_of_its_channels(run: SimpleNamespace) -> None:
    net = load_model(run.checkpoint)
    assert net.in_channels == 4
    assert net.encoder.conv1.weight.shape[1] == 4
    for number in range(3):
        written = np.asarray(Image.open(run.folder / f"predictions/val{number}_label.png"))
        pixels = read(run.root, 4, number)
        assert np.array_equal(written, classes(net, pixels))
    pixels[..., 3] = 0  # the network looks at depth
    with torch.no_grad():
        logits = [
            net(net.preprocess(torch.from_numpy(each).permute(2, 0, 1)[None] / 255.0))
            for each in (pixels, read(run.root, 4, 2))
        ]
    assert not torch.allclose(*logits)
    assert read_checkpoint(run.checkpoint).in_channels == 4
    assert read_checkpoint(run.checkpoint).config["datamodule"]["in_channels"] == 4


def test_panels_show_rgb(run: SimpleNamespace) -> None:
    panel = np.asarray(Image.open(sorted((run.folder / "panels").iterdir())[-1]).convert("RGB")).astype(int)
    first = read(run.root, 4)[..., :3].astype(int)
    corner = panel[30 : 30 + 3 * SIZE[0] : 3, 8 : 8 + 3 * SIZE[1] : 3]  # enlarged three times, below a line of titles
    assert np.array_equal(corner, first)


def test_evaluate_scores_what_train_scored(run: SimpleNamespace, tmp_path: Path) -> None:
    options = ["trainer=cpu", "trainer.precision=32-true", "split=val"]
    found = evaluate(config("evaluate", f"checkpoint={run.checkpoint}", *options), tmp_path)
    before = read_run(run.folder).summary
    assert (found.mIoU, found.weights, found.flops) == (
        before.mIoU,
        before.weights,
        before.flops,
    )
    other = ["datamodule=folder", f"datamodule.root={run.root}", "datamodule.classes=[a,b,c]"]
    message = r"best.ckpt takes images of 4 channels, but those of datamodule=folder have 3 \(datamodule.in_channels\)"
    with pytest.raises(UserError, match=message):
        evaluate(config("evaluate", f"checkpoint={run.checkpoint}", *options, *other), tmp_path)


@pytest.mark.parametrize("in_channels", [4, 1, 6])
def test_predict_reads_what_is_behind_rgb_and_shows_rgb_or_gray(
    in_channels: int, run: SimpleNamespace, tmp_path: Path
) -> None:
    root, checkpoint = run.root, run.checkpoint
    if in_channels != 4:
        root = write(tmp_path / "data", in_channels)
        checkpoint = trained(tmp_path / "run", root, in_channels, "trainer.max_steps=1")
    extra = [] if in_channels == 1 else [f"extra={root}/extra/val"]
    assert predict(config("predict", *arguments(checkpoint, root / "images/val", tmp_path / "out"), *extra)) == 0
    net = load_model(checkpoint)
    for number in range(3):
        label, colors, overlay = (
            np.asarray(Image.open(tmp_path / f"out/val{number}_{kind}.png")) for kind in ("label", "colour", "overlay")
        )
        pixels = read(root, in_channels, number)
        assert np.array_equal(label, classes(net, pixels))
        shown = np.repeat(pixels, 3, 2) if in_channels == 1 else pixels[..., :3]
        assert np.abs(overlay - (shown.astype(float) + colors) / 2).max() <= 0.5


def arguments(checkpoint: Path, images: Path, output: Path) -> list[str]:
    return [f"checkpoint={checkpoint}", f"input={images}", f"output={output}", "device=cpu", "precision=32-true"]


def test_predict_names_what_is_missing(run: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = arguments(run.checkpoint, run.root / "images/val", tmp_path / "out")
    with pytest.raises(UserError, match=r"in_channels=4. Give extra=FOLDER with a gray image for each image"):
        predict(config("predict", *given))
    shutil.copytree(run.root / "extra/val", tmp_path / "extra")
    (tmp_path / "extra/val1.png").unlink()
    Image.fromarray(read(run.root, 4)[..., :3]).save(tmp_path / "extra/val2.png")
    with caplog.at_level(logging.ERROR):
        assert predict(config("predict", *given, f"extra={tmp_path}/extra")) == 2
    assert f"There is no file {tmp_path}/extra/val1.*" in caplog.text
    assert f"{tmp_path}/extra/val2.png has 3 channels, but datamodule.in_channels=4 takes 1" in caplog.text
    one = arguments(run.checkpoint, run.root / "images/val/val0.png", tmp_path / "one")
    assert predict(config("predict", *one, f"extra={run.root}/extra/val/val0.png")) == 0


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch_export", "onnx")),
        *("torchvision", "pytorch_fcn", "refinenet_pytorch"),
    ],
)
def test_programs_take_all_channels_and_published_formats_are_refused(
    name: str, run: SimpleNamespace, tmp_path: Path
) -> None:
    given = [f"checkpoint={run.checkpoint}", f"format={name}", f"output={tmp_path}/net"]
    if name in ("torch_export", "onnx"):
        if name == "onnx":
            pytest.importorskip("onnxscript")
        export(config("export", *given))  # which compares its outputs with the network's
        assert (tmp_path / "net").stat().st_size > 0
    else:
        with pytest.raises(UserError, match=r"Weights of .* are for "):
            export(config("export", *given))
        assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("fcn32s", "vgg16", {"geometry": "caffe", "classifier_channels": 4}),
        ("refinenet_lw", "resnet50", {}),
        ("fcn_dilated", "resnet50", {}),
    ],
)
def test_published_weights_are_for_rgb_alone(name: str, backbone: str, options: dict[str, Any]) -> None:
    from segrefine.weights.published import FORMS

    net = create_model(name, backbone, 3, in_channels=4, **options)
    (form,) = [form for form in FORMS if isinstance(net.decoder, form.decoder)]
    assert form.name in FORMATS
    with pytest.raises(UserError, match=r"are for RGB images; the network takes in_channels=4"):
        form.tensor_names(net)


def test_weights_of_other_channels_are_refused_or_start_what_fits(
    run: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    net = create_model("fcn32s", "resnet18", 3, upsample="interpolate")
    first = net.encoder.conv1.weight.clone()
    with pytest.raises(UserError, match=r"of a network with in_channels=4; this one takes 3"):
        load_weights(net, run.checkpoint)
    with caplog.at_level(logging.WARNING):
        load_weights(net, run.checkpoint, strict=False)
    assert "encoder.conv1.weight (64, 4, 7, 7) instead of (64, 3, 7, 7)" in caplog.text
    assert torch.equal(net.encoder.conv1.weight, first)
    assert torch.equal(net.encoder.bn1.weight, load_model(run.checkpoint).encoder.bn1.weight)


def test_a_run_goes_on_with_its_own_channels(run: SimpleNamespace) -> None:
    before = read_checkpoint(run.checkpoint)
    refuse_other_run(before, before.config, before.classes)
    data = before.config["datamodule"]
    other = before.config | {"datamodule": data | {"in_channels": 3}}
    with pytest.raises(UserError, match=r"of a run with datamodule.in_channels=4, not 3"):
        refuse_other_run(before, other, before.classes)
    older = before.config | {"datamodule": {key: value for key, value in data.items() if key != "in_channels"}}
    refuse_other_run(SimpleNamespace(**vars(before) | {"config": older}), other, before.classes)  # type: ignore[arg-type]


def test_a_run_on_rgb_is_compared_with_one_on_more(run: SimpleNamespace, tmp_path: Path) -> None:
    trained(tmp_path / "rgb", run.root, 3)
    variants = group([read_run(run.folder), read_run(tmp_path / "rgb")])
    assert sorted(variant.label for variant in variants) == ["fcn32s in_channels=3", "fcn32s in_channels=4"]
    pictures, remarks = choose_pictures(variants)
    assert pictures is not None, remarks
    shown = {picture.id: picture.image for picture in pictures.items}
    assert np.array_equal(shown["val1"], read(run.root, 4, 1)[..., :3])


def test_the_contact_sheet_shows_rgb(run: SimpleNamespace, type_in: TypeIn, tmp_path: Path) -> None:
    given = ["datamodule=folder", f"datamodule.root={run.root}", "datamodule.in_channels=4", "output=sheet.png"]
    result = type_in("segrefine.data", "show", *given)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "sheet.png").is_file()


def test_no_result_overwrites_what_is_behind_rgb(run: SimpleNamespace, tmp_path: Path) -> None:
    """A benchmark's files are called after the image, as the files behind RGB are."""
    shutil.copytree(run.root / "extra/val", tmp_path / "extra")
    given = arguments(run.checkpoint, run.root / "images/val", tmp_path / "extra")
    with pytest.raises(UserError, match=r"val0.png would overwrite an input image"):
        predict(config("predict", *given, f"extra={tmp_path}/extra", "submission=cityscapes"))
