"""`python tests/fuzz/fuzz.py READER[,READER] FIRST COUNT FOLDER`: damaged files, to be read or refused in words.

Input number N of a reader is always the same: a valid file, damaged in one to three places. It may give a result or a
UserError; anything else is printed with its number and stays in FOLDER. Then a line of JSON says how many gave which.
A hang or a crash ends the process, with the number of the input in FOLDER/number.
"""

import contextlib
import faulthandler
import io
import json
import logging
import resource
import signal
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image
from safetensors.torch import save_file

from segrefine.core.errors import UserError
from segrefine.core.labels import voc_color_map
from segrefine.data.files import FileDataset
from segrefine.data.label_code import LabelCode
from segrefine.data.sets.folder import read_list
from segrefine.io import images as data_io
from segrefine.io.caffemodel import _net_class
from segrefine.weights.checkpoint import KEY, describe, read_checkpoint

SECONDS = 20  # for one input; a second would do but for a busy machine
MEMORY = 1 << 30  # bytes that reading may add to the process's greatest size
PIXELS = 2**22  # in place of MAX_PIXELS, so that a balloon stands out

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (24, 31, 3), np.uint8)
LABEL = RNG.integers(0, 5, (24, 31), np.uint8)

Seed = tuple[str, bytes]
"""Ending and content of a valid file."""


def saved(image: Image.Image, ending: str, **options: object) -> Seed:
    buffer = io.BytesIO()
    image.save(buffer, format=Image.registered_extensions()[ending], **options)
    return ending, buffer.getvalue()


def pictures(ending: str, *options: dict) -> list[Seed]:
    """An image in colors, in grey and by a palette, with each set of options."""
    colors = Image.fromarray(PICTURE)
    forms = [colors, colors.convert("L")] + ([colors.quantize(9)] if ending not in (".jpg", ".webp") else [])
    return [saved(form, ending, **chosen) for form in forms for chosen in (options or ({},))]


def mats() -> list[Seed]:
    seeds = []
    contents = ({"S": LABEL}, {"S": LABEL.astype(float), "names": ["a", "b"]}, {"S": {"Segmentation": LABEL}})
    for content in contents:
        for compressed in (True, False):
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, content, do_compression=compressed)
            seeds.append((".mat", buffer.getvalue()))
    return seeds


def caffemodels() -> list[Seed]:
    net = _net_class()()
    for layers, name in ((net.layer, b"conv1"), (net.layers, b"fc6")):
        layer = layers.add(name=name)
        blob = layer.blobs.add(data=[np.arange(24, dtype="<f4").tobytes()])
        blob.shape.dim.extend([2, 3, 2, 2])
        layer.blobs.add(data=[np.arange(2, dtype="<f4").tobytes()], num=1, channels=1, height=1, width=2)
    return [(".caffemodel", net.SerializeToString())]


def checkpoints() -> list[Seed]:
    tensors = {"net.a": torch.arange(6.0).view(2, 3), "net.b": torch.arange(4)}
    about = describe({"model": {"name": "x"}, "seed": 1}, ["a", "b"], voc_color_map(2))
    seeds = []
    for content, new in (({"state_dict": tensors, KEY: about}, True), (tensors, True), (tensors, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        seeds.append((".pth", buffer.getvalue()))
    return seeds


def safetensors() -> list[Seed]:
    path = FOLDER / "seed.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4)}, path)
    return [(".safetensors", path.read_bytes())]


def image_and_label(path: Path) -> None:
    """As the data reads them: the file as a label, the size from the header, the image."""
    for read in (label, data_io.image_size):
        with contextlib.suppress(UserError):
            read(path)
    data_io.read_image(path)


def label(path: Path) -> None:
    LabelCode.counted(5).decode(data_io.read_label(path), path)


def mat_label(path: Path) -> None:
    failures = []
    for variable in ("S", "S.Segmentation"):
        try:
            LabelCode.counted(5).decode(data_io.read_mat(path, variable), path)
        except UserError as error:
            failures.append(error)
    if len(failures) == 2:
        raise failures[0]


def list_file(path: Path) -> None:
    examples = read_list(path, FOLDER)
    if examples:
        FileDataset(examples, LabelCode.counted(5)).read(0)


LINES = b"\n".join(b"images/%02d.png masks/%02d.png" % (index, index) for index in range(9)) + b"\n"

READERS: dict[str, tuple[Callable[[], list[Seed]], Callable[[Path], object]]] = {
    "jpeg": (lambda: pictures(".jpg", {}, {"progressive": True}), image_and_label),
    "png": (
        lambda: [*pictures(".png"), saved(Image.fromarray(LABEL.astype(np.uint16) * 999), ".png")],
        image_and_label,
    ),
    "tiff": (
        lambda: pictures(".tif", {}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
        image_and_label,
    ),
    "gif": (lambda: pictures(".gif"), image_and_label),
    "bmp": (lambda: pictures(".bmp"), image_and_label),
    "webp": (lambda: pictures(".webp", {}, {"lossless": True}), image_and_label),
    "ppm": (lambda: [saved(Image.fromarray(PICTURE), ".ppm"), saved(Image.fromarray(LABEL), ".pgm")], image_and_label),
    "mat": (mats, mat_label),
    "caffemodel": (caffemodels, read_checkpoint),
    "checkpoint": (checkpoints, read_checkpoint),
    "safetensors": (safetensors, read_checkpoint),
    "list": (lambda: [(".txt", LINES)], list_file),
}


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three damages: a flipped bit, a strange byte or number, a cut, a run taken out, put in, or of another."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        # Half of the damages are near the beginning, where headers are.
        reach = min(len(data), 200) if rng.random() < 0.5 else len(data)
        at, length = int(rng.integers(reach)), int(rng.integers(1, 40))
        match int(rng.integers(7)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2:
                data[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"]
                )
            case 3:
                del data[at:]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = rng.bytes(length) if rng.random() < 0.5 else bytes(length)
            case 6:
                start = int(rng.integers(len(other)))
                data[at : at + length] = other[start : start + length]
    return with_checksums(bytes(data)) if data[:4] == b"\x89PNG" and rng.random() < 0.7 else bytes(data)


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that damage reaches what lies behind them."""
    data, start = bytearray(png), 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(data)


def main(reader: str, first: int, count: int) -> None:
    make_seeds, read = READERS[reader]
    seeds = make_seeds()
    outcomes = {"read": 0, "refused": 0, "wrong": 0}
    for ending, content in seeds:
        path = FOLDER / f"{reader}{ending}"
        path.write_bytes(content)
        if reader != "list":  # which names files that are not there
            read(path)
    size = greatest_size()
    for number in range(first, first + count):
        rng = np.random.default_rng([sorted(READERS).index(reader), number])
        ending, content = seeds[int(rng.integers(len(seeds)))]
        other = seeds[int(rng.integers(len(seeds)))][1]
        path = FOLDER / f"{reader}{ending}"
        path.write_bytes(damaged(content, other, rng))
        (FOLDER / "number").write_text(f"{reader} {number}")
        signal.alarm(SECONDS)  # its default action ends the process, whatever a C library is busy with
        outcome = "read"
        try:
            read(path)
        except UserError as error:
            outcome = "refused" if str(path) in str(error) or reader == "list" else "wrong"
        except Exception:
            traceback.print_exc(file=sys.stdout)
            outcome = "wrong"
        signal.alarm(0)
        if greatest_size() > size + MEMORY:
            print(f"the process grew from {size:,} to {greatest_size():,} bytes")
            size, outcome = greatest_size(), "wrong"
        outcomes[outcome] += 1
        if outcome == "wrong":
            print(f"wrong: {reader} {number}")
            path.rename(FOLDER / f"{reader}_{number}{ending}")
    print(json.dumps({"reader": reader} | outcomes))


def greatest_size() -> int:
    """Bytes of memory that the process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    faulthandler.enable()
    FOLDER = Path(sys.argv[4])
    data_io.MAX_PIXELS = PIXELS
    Image.MAX_IMAGE_PIXELS = PIXELS // 2
    warnings.simplefilter("ignore")
    logging.disable()
    for reader in sys.argv[1].split(","):
        main(reader, int(sys.argv[2]), int(sys.argv[3]))
