"""The kit that travels to a machine without a network: wheels that it may lack, CamVid and a VGG-16 in one archive."""

import lzma
import re
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ARCHIVE = "kit.tar.xz"
FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]
"""xz for numbers of two bytes: `lp` and `pb` keep even and odd places apart. VGG-16 in float16 takes 25.3 MB, 26.4 by
`xz -9`."""

UNUSED = {"wandb"}
"""What runs with logger=csv do without."""


PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for."""
    return [Requirement(line) for line in PROJECT["dependencies"]]


def pack(kit: Path, camvid: Path, weights: Path) -> None:
    """Put the wheels in `kit`, the two labelled splits and the weights, bytes as they are, into `kit`/kit.tar.xz."""
    splits = [camvid / f"{split}{part}" for split in ("train", "val") for part in ("", "annot")]
    for needed in (*splits, weights):
        if not needed.exists():
            sys.exit(f"{needed} is not there. Give CamVid's folder (with train/ and trainannot/) and a VGG-16's file.")
    wheels = kit / "wheels"
    with (
        lzma.open(kit / ARCHIVE, "wb", filters=FILTERS) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,  # type: ignore[call-overload]
    ):
        for folder in splits:
            archive.add(folder, f"kit/camvid/{folder.name}")
        archive.add(weights, "kit/vgg16.safetensors")
        archive.add(wheels, "kit/wheels")
    for wheel in wheels.iterdir():
        wheel.unlink()
    wheels.rmdir()
    print(f"{kit / ARCHIVE}: {(kit / ARCHIVE).stat().st_size / 2**20:.1f} MiB")


def unpack(kit: Path, work: Path) -> None:
    """Unpack the kit to `work`/kit, if an earlier call has not."""
    done = work / "kit" / "unpacked"
    if done.exists():
        return
    if not (kit / ARCHIVE).is_file():
        sys.exit(
            f"{kit / ARCHIVE} is not there. Make it where there is a network: benchmarks/gpu_session.sh prepare ..."
        )
    with tarfile.open(kit / ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(work)
    # segrefine runs from src/ here, and asks for its version all the same.
    about = work / "site" / f"segrefine-{PROJECT['version']}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: segrefine\nVersion: {PROJECT['version']}\n")
    done.touch()


def missing(folder: Path) -> list[Path]:
    """Return the wheels of the folder to install here; says on stderr what is neither here in range nor among them."""
    tags, wheels = set(sys_tags()), {}
    for file in folder.glob("*.whl"):
        name, _, _, fits = parse_wheel_filename(file.name)
        if fits & tags:
            wheels[name] = file
    chosen: dict[str, Path] = {}
    for requirement in requirements():
        _choose(requirement, wheels, chosen)
    return list(chosen.values())


def _choose(requirement: Requirement, wheels: dict[Any, Path], chosen: dict[str, Path]) -> None:
    """Add the wheel of a requirement that is not met, and of what that needs in turn, to `chosen`."""
    name = canonicalize_name(requirement.name)
    try:
        found = version(name)
    except PackageNotFoundError:
        found = None
    # A local label (2.11.0+cu130) is no other version.
    if name in chosen or (found and requirement.specifier.contains(found.partition("+")[0], prereleases=True)):
        return
    if name not in wheels:
        state = f"{found} is out of range" if found else "is not installed"
        unused = ", and is not used here" if name in UNUSED else ""
        print(f"{requirement.name} {state} (wanted: {requirement.specifier or 'any'}){unused}", file=sys.stderr)
        return
    chosen[name] = wheels[name]
    with zipfile.ZipFile(wheels[name]) as wheel:
        about = next(entry for entry in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry))
        lines = wheel.read(about).decode().splitlines()
    for line in lines:
        needed = Requirement(line.partition(": ")[2]) if line.startswith("Requires-Dist: ") else None
        if needed and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            _choose(needed, wheels, chosen)
