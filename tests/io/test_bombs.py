"""Small files that declare huge pictures: refused by name, before any memory is taken for them."""

import gzip
import io
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from segrefine.core.errors import BadFileError
from segrefine.io.images import MAX_PIXELS, image_size, read_image, read_label, read_mat

SIDE = 100_000


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def bmp(side: int) -> bytes:
    return struct.pack("<2sIHHIIiiHHIIIIII", b"BM", 999, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99)


def tiff(side: int) -> bytes:
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: side, 279: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(199)


def ppm(side: int) -> bytes:
    return f"P6 {side} {side} 255\n".encode() + bytes(99)


def gif(side: int) -> bytes:
    side = min(side, 65535)  # the format's most
    return (
        struct.pack("<6sHHBBB", b"GIF89a", side, side, 0, 0, 0)
        + struct.pack("<BHHHHB", 44, 0, 0, side, side, 0)
        + b"\2\0;"
    )


def webp(side: int) -> bytes:
    """The canvas of an animation; that of a single picture is at most 16,383 pixels wide and high, and may be read."""
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 99)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    content = bytearray(buffer.getvalue())
    start = content.index(b"VP8X") + 12
    content[start : start + 6] = (min(side, 65_000) - 1).to_bytes(3, "little") * 2
    return bytes(content)


BOMBS = {"png": png, "bmp": bmp, "tif": tiff, "ppm": ppm, "gif": gif, "webp": webp}


@pytest.mark.parametrize("ending", BOMBS)
@pytest.mark.parametrize("read", [read_image, read_label, image_size])
def test_a_huge_picture_is_refused_before_memory_is_taken(ending: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / f"bomb.{ending}"
    path.write_bytes(BOMBS[ending](SIDE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadFileError, match=rf"bomb\.{ending}"):
        read(path)  # type: ignore[operator]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_the_message_says_what_the_most_is(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(SIDE))
    with pytest.raises(
        BadFileError, match=r"declares more than 268,435,456 pixels, .* Cut a larger picture into tiles"
    ):
        read_image(path)


SIZES = """
import sys, pathlib
import segrefine.io.images as io

for path in sys.argv[1:]:
    print(io.image_size(pathlib.Path(path), upright=False))
"""


def test_a_large_picture_is_read_without_a_warning(tmp_path: Path) -> None:
    """One above what Pillow warns of by itself, 89,478,485 pixels, from its header; the largest there may be, too. In a
    process of its own, since pytest sets up warnings as it likes."""
    paths = []
    for side in (9_500, 16_384):
        assert side**2 <= MAX_PIXELS
        paths.append(tmp_path / f"{side}.png")
        paths[-1].write_bytes(png(side))
    result = subprocess.run([sys.executable, "-c", SIZES, *paths], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("(9500, 9500)\n(16384, 16384)\n", "")
    path = tmp_path / "large.png"
    path.write_bytes(png(16_385))
    with pytest.raises(BadFileError, match="declares more than"):
        image_size(path)


def mat(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"S": values}, **options)
    return buffer.getvalue()


def declare(content: bytes, side: int) -> bytes:
    """The same file with another height and width in the header of its variable (8 x 9)."""
    old, new = struct.pack("<ii", 8, 9), struct.pack("<ii", side, side)
    assert old in content[136:200]
    return content[:136] + content[136:].replace(old, new, 1)


def test_a_mat_file_that_declares_a_huge_map(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mat"
    path.write_bytes(declare(mat(np.ones((8, 9), np.uint8)), SIDE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadFileError, match=r"bomb\.mat"):
        read_mat(path, "S")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


LIMITED = """
import resource, sys
from pathlib import Path
import scipy.io
from segrefine.io import images
from segrefine.core.errors import BadFileError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    images.read_mat(Path(sys.argv[1]), "S")
except BadFileError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_mat_file_that_is_a_small_compressed_gigabyte(tmp_path: Path) -> None:
    """Deflate makes a thousandth of zeros: 1 GiB of them, which are not decompressed beyond the limit."""
    content = mat(np.zeros((8, 9), np.uint8))
    element = content[128:136] + content[136:] + bytes(0)
    packer = zlib.compressobj(1)
    start = packer.compress(element[:4] + struct.pack("<I", 2**30) + element[8:]) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # which depend on nothing before
    packed = start + 1024 * zeros
    path = tmp_path / "bomb.mat"
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed)
    assert path.stat().st_size < 8 * 2**20
    words = [sys.executable, "-c", LIMITED, str(path)]
    message, grown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "bomb.mat cannot be read (decompressed it is more than 268,435,456 bytes)" in message
    assert int(grown) < 600  # MiB: the limit, once over while it is copied


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f8", "f4", "i8", "bool"])
def test_ordinary_mat_files_are_read_as_scipy_wrote_them(compressed: bool, dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 40, (17, 23)).astype(dtype)
    small = values[:1, :3]  # which lies within its tag, if it is of bytes
    cells = np.empty((2, 1), object)
    cells[:] = [[np.ones(3)], [np.zeros(2)]]
    inside = {"Boundaries": cells, "Segmentation": values, "text": "word", "none": np.empty((0, 0))}
    content = {"before": np.arange(500), "S": values, "small": small, "G": inside, "after": ["x"]}
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, content, do_compression=compressed)
    for variable, expected in (("S", values), ("small", small), ("G.Segmentation", values)):
        found = read_mat(path, variable)
        assert found.dtype.kind in "biu"
        assert (found == expected).all()
    for variable in ("T", "G.nothing", "G.text", "G.none", "G.Boundaries", "S.x", "after"):
        with pytest.raises(BadFileError, match=rf"a\.mat.*'{variable.split('.')[0]}"):
            read_mat(path, variable)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadFileError, match=r"a\.mat"):
        read_mat(path, "nothing")


def test_mat_files_of_other_versions_say_how_to_save_them(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"S": np.ones((3, 4))}, format="4")
    with pytest.raises(BadFileError, match=r"a\.mat cannot be read .*save -v7"):
        read_mat(path, "S")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(BadFileError, match=r"a\.mat cannot be read .*save -v7"):
        read_mat(path, "S")


def test_a_file_longer_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.write(png(64))
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(BadFileError, match=r"sparse\.png cannot be read \(its 1,099,511,627,776 bytes are more than"):
        read_image(path)
