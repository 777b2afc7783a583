"""Download, check and unpack public files and archives, leaving nothing behind if that fails."""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from segrefine.core.errors import UserError

TIMEOUT = 20
"""Seconds without an answer after which a server counts as unreachable."""

CHUNK = 2**20

MOST = 64 * 2**30
"""The most bytes that an archive may unpack to: several times the largest data set here. Zeros compress a thousandfold,
so a small file could fill a disk."""


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar at `url`.

    GitHub packs archives on demand and guarantees only their content. Such an archive has no `md5` but the `sha256` of
    its folder.
    """

    url: str
    md5: str | None
    folder: str  # what the archive unpacks to
    sha256: str | None = None  # of the folder, by `checksum`
    also: tuple[str, ...] = ()  # if one of these folders exists, or `folder`, the data is there


def provide(archives: tuple[Archive, ...], root: Path) -> None:
    """Put the folders of all archives below `root`, except those that are already there.

    An interrupted download resumes where it stopped.

    Raises:
        UserError: an archive cannot be downloaded, is damaged or unsafe, or does not hold what was expected.
    """
    for archive in archives:
        if not any((root / place).is_dir() for place in (archive.folder, *archive.also)):
            path = root / archive.url.rpartition("/")[2]
            fetch(archive.url, archive.md5, path)
            unpack(path, root, archive.folder, archive.sha256)
            path.unlink()


def fetch(url: str, md5: str | None, path: Path) -> None:
    """Download to `path` by way of a .part file, from which a later call resumes.

    Raises:
        UserError: the download failed, or the file has another checksum than `md5`.
    """
    if path.is_file() and md5 in (None, _digest(path, "md5")):
        return
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            resumes = response.status == 206  # else the server sends all of it
            length = int(response.headers.get("Content-Length", 0)) + have * resumes
            bar = tqdm(
                desc=path.name, total=length or None, initial=have * resumes, unit="B", unit_scale=True, disable=None
            )
            with part.open("ab" if resumes else "wb") as file, bar:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            if response.length:  # of what was promised, which reading in chunks does not check
                raise IncompleteRead(b"", response.length)
    except (OSError, HTTPException) as error:  # URLError is of the first, IncompleteRead of the second
        if not (isinstance(error, HTTPError) and error.code == 416):  # nothing is left to send
            raise UserError(
                f"{url} could not be downloaded ({error}). The part that was downloaded is kept: run the command again "
                f"to resume, or download the file by other means and put it in {path.parent}."
            ) from error
    if md5 not in (None, _digest(part, "md5")):
        part.unlink()
        raise UserError(f"{url} has another checksum than {md5}: it is damaged or was changed. It was deleted.")
    part.replace(path)


def unpack(path: Path, root: Path, folder: str, sha256: str | None = None) -> None:
    """Unpack an archive and move its `folder`, from the top or one folder down, below `root`.

    Raises:
        UserError: the archive would write elsewhere or too much, is damaged or lacks the folder, or the folder does not
            have the `sha256`.
    """
    free = shutil.disk_usage(root).free
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as inside:
        try:
            (_unzip if path.suffix == ".zip" else _untar)(path, inside, free)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UserError(f"{path} was not unpacked: {error}. Delete it to download it again.") from error
        # GitHub wraps everything in a folder of the repository's name.
        found = [place for place in (Path(inside) / folder, *Path(inside).glob(f"*/{folder}")) if place.is_dir()]
        if not found:
            raise UserError(f"{path} holds no folder {folder}.")
        if sha256 and checksum(found[0]) != sha256:
            path.unlink()
            raise UserError(f"{path} held another {folder} than expected (SHA-256 {sha256}). It was deleted.")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found[0], root / folder)


def _unzip(path: Path, folder: str, free: int) -> None:
    with zipfile.ZipFile(path) as archive:
        if strange := [name for name in archive.namelist() if _leaves(name)]:
            raise UserError(f"{path} was not unpacked: it holds {strange[0]!r}, outside its folder.")
        # zipfile takes no more from a member than is declared for it, and writes links as plain files.
        _refuse_too_much(path, free, sum(member.file_size for member in archive.infolist()))
        archive.extractall(folder)


def _untar(path: Path, folder: str, free: int) -> None:
    total = 0
    with tarfile.open(path) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python has from 3.11.4 on
        for member in archive:  # the list of members of a compressed .tar is known only at its end
            total += member.size
            _refuse_too_much(path, free, total)
            if _leaves(member.name) or not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"{member.name!r} is a link or a device, or lies outside its folder")
            archive.extract(member, folder, set_attrs=False)


def _refuse_too_much(path: Path, free: int, size: int) -> None:
    """Raise UserError if `size` unpacked bytes exceed the size of any data set here or the `free` bytes on the disk."""
    if size > min(MOST, free):
        limit = f"the disk has {free / 2**30:.1f} GiB free" if free < MOST else f"no data set here has {MOST >> 30} GiB"
        raise UserError(f"{path} was not unpacked: it would take {size / 2**30:.1f} GiB, and {limit}.")


def checksum(folder: Path) -> str:
    r"""Return the SHA-256 of a list of the SHA-256 and the name of every file below the folder.

    The shell gives the same: `find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    lines = [f"{_digest(path, 'sha256')}  {name}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _leaves(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
