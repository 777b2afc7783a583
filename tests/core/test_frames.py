"""Which names are those of frames."""

from pathlib import Path

import pytest

from segrefine.core.errors import UserError
from segrefine.core.frames import find_frame
from segrefine.data.build import create_datamodule


@pytest.mark.parametrize(
    ("kind", "image", "place"),
    [
        ("camvid", "0016E5_07959", ("0016E5", 7959)),
        ("camvid", "Seq05VD_f00000", ("Seq05VD", 0)),
        ("camvid", "0001TP_009210", ("0001TP", 9210)),
        ("camvid", "0006R0_f00930", ("0006R0", 930)),
        ("camvid", "photo", None),
        ("cityscapes", "aachen_000010_000019", ("aachen", 10)),
        ("cityscapes", "frankfurt_000001_049078", ("frankfurt", 1)),
        ("nyudv2", "img_5001", ("img_", 5001)),
        ("nyudv2", "7", ("", 7)),
        ("shapes", "image_12", None),
        ("somebodys_own", "clip_12", None),
    ],
)
def test_data_sets_name_their_frames(kind: str, image: str, place: tuple[str, int] | None) -> None:
    assert find_frame(image, {"kind": kind, "sequence_pattern": None}) == place
    assert find_frame(image, {}) is None


def test_a_pattern_finds_sequences_in_a_folder(tmp_path: Path) -> None:
    assert find_frame("day/clip7_0012", {"sequence_pattern": r"(clip\d+)_(\d+)"}) == ("clip7", 12)
    assert find_frame("day/other", {"sequence_pattern": r"(clip\d+)_(\d+)"}) is None
    with pytest.raises(UserError, match="finds 'a' and 'b' in a-b, which are not"):
        find_frame("a-b", {"sequence_pattern": "(.)-(.)"})
    for pattern in (r"(a)?x(\d)", r"(x)(\d)?"):  # a group that takes no part
        with pytest.raises(UserError, match=r"None .*in x.?, which are not a sequence's name and a frame's number"):
            find_frame("x1" if "?x" in pattern else "x", {"sequence_pattern": pattern})
    for pattern, words in {"(.*)": "has 1 groups; it needs two", "(": "is not a regular expression"}.items():
        with pytest.raises(UserError, match=words):
            create_datamodule("folder", root=str(tmp_path), sequence_pattern=pattern)
