"""Tell from the names of images which of them are frames of a sequence, such as a video.

A comparison resamples neighboring frames together. It has no access to the data, and it does not need the data modules,
which take seconds to load.
"""

import re
from collections.abc import Mapping
from typing import Any

from segrefine.core.errors import UserError

PATTERNS = {
    "camvid": r"^(\w+)_f?(\d+)$",  # drive and frame: 0016E5_07959, Seq05VD_f00000
    "cityscapes": r"^(\w+)_(\d{6})_\d{6}$",  # city and number of the snippet: aachen_000010_000019
    "nyudv2": r"^(\D*)(\d+)$",  # numbered room by room: neighbors are often of one room
}
"""Patterns by the kind of the data module. Its option `sequence_pattern`, if it has one, takes precedence."""


def find_frame(image: str, options: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the name of the sequence that an image is a frame of, and the frame's number; None for no sequence.

    Args:
        image: the image's id.
        options: the group `datamodule` of its run.

    Raises:
        UserError: `sequence_pattern` is no such pattern, or finds no number.
    """
    pattern = options.get("sequence_pattern") or PATTERNS.get(options.get("kind", ""))
    found = compile_pattern(pattern).search(image) if pattern else None
    if found and (found[1] is None or not (found[2] or "").isdecimal()):
        raise UserError(
            f"datamodule.sequence_pattern={pattern} finds {found[1]!r} and {found[2]!r} in {image}, which are not a "
            "sequence's name and a frame's number."
        )
    return (found[1], int(found[2])) if found else None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a `sequence_pattern`, or raise UserError if it is no regular expression with two groups."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"datamodule.sequence_pattern={pattern} is not a regular expression: {error}.") from error
    if compiled.groups != 2:
        raise UserError(
            f"datamodule.sequence_pattern={pattern} has {compiled.groups} groups; it needs two, the sequence's name "
            r"and the frame's number, such as '(.+)_(\d+)'."
        )
    return compiled
