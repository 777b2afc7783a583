"""Read image and label files of any common format. Every failure is a UserError that names the file."""

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from segrefine.core.channels import RGB
from segrefine.core.errors import BadFileError, UserError
from segrefine.io.atomic import replacing
from segrefine.io.matlab import MatFile

MAX_PIXELS = 2**28
"""The most pixels of an image or label: 16,384 x 16,384. That is more than a whole tile of Sentinel-2 (10,980 x 10,980,
ESA's product specification) and half as many again as Pillow accepts by default. A few bytes of a header can declare
more than any memory holds. Also the most bytes of a .mat file after decompression."""

# Pillow warns of images above this number and refuses those above its double, before it takes memory for them.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Channels = Literal[1, 3, 4, 6]
"""How many channels images may have that are read from files."""

EXTRA = {4: "gray", 6: "color"}
"""The image that comes behind RGB, by the number of channels."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")


NameOf = Callable[[Path], str | None]
"""Maps the path of an image or label to the id of its example, or to None for a file to skip."""


def list_images(
    place: Path, extensions: tuple[str, ...] = EXTENSIONS, ignored_folder: Path | None = None
) -> list[Path]:
    """Return an image file, or those of a folder, sorted. Hidden files and other extensions are skipped.

    Extensions are in lower case, with the dot. `ignored_folder`, below `place`, may hold images.

    Raises:
        UserError: There is no such file or folder, or a folder below it holds images, which would be missed.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"There is no file or folder {place}.")
    seen = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    # Only what does not look like an image is asked whether it is a folder, which takes a call each.
    for folder in (path for path in seen if path.suffix.lower() not in extensions and path.is_dir()):
        below = (path for path in folder.rglob("*") if path.suffix.lower() in extensions)
        if any(ignored_folder is None or ignored_folder.resolve() not in path.resolve().parents for path in below):
            raise UserError(
                f"{folder} holds images, but only those in {place} itself are read. Move them up into {place}, or the "
                "folder elsewhere. (datamodule=folder also reads lists of files: datamodule.train_list.)"
            )
    return [path for path in seen if path.suffix.lower() in extensions]


stem_of: NameOf = attrgetter("stem")


def find_images(folder: Path, name_of: NameOf = stem_of) -> dict[str, Path]:
    """Return the image and .mat files of a folder by the id that `name_of` gives each, sorted by id.

    Raises:
        UserError: two files have the same id.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder, (*EXTENSIONS, ".mat")):
        name = name_of(path)
        if name in found:
            raise UserError(f"{folder} holds both {found[name].name} and {path.name}; remove or rename one.")
        if name is not None:
            found[name] = path
    return dict(sorted(found.items()))


def read_image(path: Path) -> Tensor:
    """Read an image as RGB (3, H, W) uint8, upright according to its EXIF orientation.

    Gray and palette images become RGB. 16 bits are scaled to 8. CMYK is converted without a color profile. Transparency
    is dropped, and colors are used as stored.

    Raises:
        BadFileError: the file cannot be read.
    """
    with _naming(path), _open(path) as image:
        # Pillow throughout: torchvision's JPEG decoder is no faster now, and is to be removed from it. Steps that
        # change nothing are skipped, since Pillow would copy all pixels for them.
        upright = _upright(image)
        if upright.mode != "RGB":
            upright = _to_8_bit(upright).convert("RGB")
        return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def read_channels(image: Path, extra: Path | None, in_channels: int) -> Tensor:
    """Read an image of `in_channels` channels, (in_channels, H, W) uint8.

    Args:
        image: RGB, read by `read_image`, or with `in_channels=1` a gray image.
        extra: what comes behind RGB: gray with `in_channels=4`, such as depth, and color with 6, such as HHA.
        in_channels: 1, 3, 4 or 6.

    Raises:
        BadFileError: A file cannot be read, has other channels than it should, or the two differ in size.
    """
    if in_channels == 1:
        return _read_as_stored(image, 1, in_channels)
    rgb = read_image(image)
    if extra is None:
        return rgb
    behind = _read_as_stored(extra, in_channels - RGB, in_channels)
    _refuse_size(extra, tuple(behind.shape[1:]), image, tuple(rgb.shape[1:]))
    return torch.cat([rgb, behind])


def check_channels(image: Path, extra: Path | None, in_channels: int) -> None:
    """Raise BadFileError for files whose headers say that `read_channels` cannot use them."""
    path, count = (image, 1) if in_channels == 1 else (extra, in_channels - RGB)
    if path is not None:
        with _naming(path), Image.open(path) as opened:
            _refuse_channels(opened, path, count, in_channels)
    if extra is not None:
        _refuse_size(extra, image_size(extra), image, image_size(image))


def _refuse_size(extra: Path, size: tuple[int, ...], image: Path, wanted: tuple[int, ...]) -> None:
    if size != wanted:
        raise BadFileError(f"{extra} is {size} (height, width), but its image {image} is {wanted}.")


def _read_as_stored(path: Path, count: int, in_channels: int) -> Tensor:
    """Read an image whose file holds `count` channels, 1 or 3, as (count, H, W) uint8."""
    with _naming(path), _open(path) as image:
        _refuse_channels(image, path, count, in_channels)
        upright = _to_8_bit(_upright(image)).convert("L" if count == 1 else "RGB")
        return torch.from_numpy(np.array(upright)).reshape(upright.height, upright.width, count).permute(2, 0, 1)


def _refuse_channels(image: Image.Image, path: Path, count: int, in_channels: int) -> None:
    found = RGB if image.mode == "P" else len(image.getbands())
    option = f"datamodule.in_channels={in_channels}"
    if found != count:
        kind = "gray" if count == 1 else "color"
        behind = " behind red, green and blue" if in_channels > RGB else ""
        channels = "1 channel" if found == 1 else f"{found} channels"
        raise BadFileError(f"{path} has {channels}, but {option} takes {count} there ({kind}{behind}).")
    if in_channels > RGB and image.mode.startswith(("I", "F")):
        raise BadFileError(
            f"{path} has more than 8 bits. {option} takes 8 bits, and scaling 65535 to 255 would leave few levels of a "
            "depth in millimeters. Save it with the range that you need spread over 0 to 255."
        )


def read_label(path: Path) -> np.ndarray:
    """Read the stored values of a label file, an integer array (H, W).

    Palette images give the index, not the color. The EXIF orientation is ignored: a mask is used as its pixels are
    stored, and must match the upright image.

    Raises:
        BadFileError: the file cannot be read, or is a color picture or a JPEG.
    """
    with _naming(path), _open(path) as image:
        if image.format == "JPEG":
            raise BadFileError(f"{path} is a JPEG, which changes label values. Save labels as PNG.")
        values = np.array(image)
    advice = "Labels must hold class numbers: convert it to a palette or grey PNG."
    if values.ndim == 3:
        # Grey may be stored as LA, RGB or RGBA; the last of two or four channels is transparency.
        channels = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if (channels != channels[..., :1]).any():
            raise BadFileError(f"{path} is a color picture. {advice}")
        values = channels[..., 0]
    if values.dtype.kind == "f":
        raise BadFileError(f"{path} holds fractions. {advice}")
    return values.astype(np.uint8) if values.dtype == bool else values


def read_mat(path: Path, variable: str) -> np.ndarray:
    """Read a variable (H, W) of a MATLAB file of version 5 to 7 as integers.

    Args:
        path: the file.
        variable: its name; "GTcls.Segmentation" is a field of a structure.

    Raises:
        BadFileError: the file cannot be read, or the variable is missing or is no map of integers.
    """
    name, *fields = variable.split(".")
    with _naming(path):
        file = MatFile(_read(path, MAX_PIXELS), MAX_PIXELS)
        array = file.find(name)
        if array is None:
            raise BadFileError(f"{path} holds no variable '{name}'. Is it a label file of this data set?")
        for field in fields:
            array = file.field(array, field)
            if array is None:
                raise BadFileError(f"{path}: its variable '{name}' has no field '{field}'.")
        values = file.values(array)
        if values is None or values.ndim != 2 or not values.size:
            raise BadFileError(f"{path}: its variable '{variable}' is not an array of numbers.")
        if values.dtype.kind != "f":
            return values
        with np.errstate(invalid="ignore"):  # a number too large, or none
            whole = values.astype(np.int32)
        if (whole != values).any():
            raise BadFileError(f"{path} holds fractions. Labels must hold class numbers.")
        return whole


def image_size(path: Path, upright: bool = True) -> tuple[int, int]:
    """Return height and width in pixels from the header alone. `upright` says whether to apply the EXIF orientation."""
    with _naming(path), Image.open(path) as image:
        width, height = image.size
        turned = upright and 5 <= _orientation(image) <= 8  # these swap the axes; Pillow ignores what is above
    return (width, height) if turned else (height, width)


def save_image(image: Image.Image, path: Path) -> None:
    """Save `image` in the format of the path's extension, completely or not at all, and create its folder."""
    with replacing(path) as part:
        image.save(part)


def _open(path: Path) -> Image.Image:
    """Read a file at once, and open it. Pillow reads in dozens of small steps, each a wait on a slow file system."""
    return Image.open(BytesIO(_read(path, 8 * MAX_PIXELS)))  # none has more bytes: four channels of 16 bits


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"its {size:,} bytes are more than the {most:,} that are read")
        return file.read()


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits (65535 becomes 255). Pillow's own conversion would clip it instead."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn any error that a decoder raises for a bad file into a BadFileError that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise BadFileError(f"There is no file {path}.") from None
    except UnidentifiedImageError:
        raise BadFileError(
            f"{path} is not an image file that Pillow can read. Replace the file or take it out of the data."
        ) from None
    except Image.DecompressionBombError:
        raise BadFileError(
            f"{path} declares more than {MAX_PIXELS:,} pixels, the most that are read. Cut a larger picture into "
            "tiles; a small file that says so is damaged, and has to be replaced or taken out of the data."
        ) from None
    except Exception as error:  # decoders raise almost anything on a damaged file
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # not the file's fault: the process has too many open
        raise BadFileError(f"{path} cannot be read ({error}). Replace the file or take it out of the data.") from error
