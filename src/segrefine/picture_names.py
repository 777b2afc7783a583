"""What the pictures of an image are called, in a folder of results."""

import hashlib
import os
from pathlib import PurePosixPath

NAME_BYTES = 200
"""Longest part of a result's path that is called after the image; file systems take 255 with endings and all."""


def label_name(name: str) -> str:
    """The file below `predictions/` that holds the classes (H, W) uint8 of the image with this id."""
    return f"{file_name(name)}_label.png"


def file_name(name: str) -> str:
    """The path below a folder that is called after an image's id: an id can be the image's own path, which may lead out
    of the folder, or be too long once more is added."""
    parts = [
        {"/": "_root", "//": "_root", "..": "_up"}.get(part, part)
        for part in PurePosixPath(name.replace("\0", "_")).parts
    ]
    digest = hashlib.sha1(os.fsencode(name)).hexdigest()[:8]
    return "/".join(part if len(os.fsencode(part)) <= NAME_BYTES else f"{part[:40]}-{digest}" for part in parts) or "_"
