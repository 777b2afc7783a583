"""Archives that the owners of data give to everybody: fetched, checked, unpacked. Nothing is left half done."""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from segrefine.errors import UserError

TIMEOUT = 20
"""Seconds without an answer after which a server counts as out of reach."""

CHUNK = 2**20


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar at `url` with its checksum; `folder` is what it unpacks to and what shows that it is there."""

    url: str
    md5: str
    folder: str


def provide(archives: tuple[Archive, ...], root: Path) -> None:
    """Put the folders of all archives below `root`; those that are there already cost nothing. Of several processes
    one works and the others wait. Raises UserError, and an interrupted download goes on where it stopped."""
    if all((root / archive.folder).is_dir() for archive in archives):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):
        for archive in archives:
            if not (root / archive.folder).is_dir():
                path = root / archive.url.rpartition("/")[2]
                fetch(archive.url, archive.md5, path)
                unpack(path, root, archive.folder)
                path.unlink()


def fetch(url: str, md5: str, path: Path) -> None:
    """Download to `path`, by way of a file .part that a later call goes on with."""
    if path.is_file() and _md5(path) == md5:
        return
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            goes_on = response.status == 206  # else the server sends all of it
            length = int(response.headers.get("Content-Length", 0)) + have * goes_on
            bar = tqdm(
                desc=path.name, total=length or None, initial=have * goes_on, unit="B", unit_scale=True, disable=None
            )
            with part.open("ab" if goes_on else "wb") as file, bar:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except OSError as error:  # URLError is one
        if not (isinstance(error, HTTPError) and error.code == 416):  # nothing is left to send
            raise UserError(
                f"{url} could not be downloaded ({error}). What came so far is kept: run the command again to go on, "
                f"or fetch the file by other means and put it in {path.parent}."
            ) from error
    if _md5(part) != md5:
        part.unlink()
        raise UserError(f"{url} came with another checksum than {md5}: it is damaged or was changed. It was deleted.")
    part.replace(path)


def unpack(path: Path, root: Path, folder: str) -> None:
    """Unpack an archive and move its `folder` below `root`; UserError for one that would write elsewhere or that is
    damaged."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as inside:
        try:
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    strange = [name for name in archive.namelist() if _leaves(name)]
                    if strange:
                        raise UserError(f"{path} was not unpacked: it holds {strange[0]!r}, outside its folder.")
                    archive.extractall(inside)
            else:
                with tarfile.open(path) as archive:
                    archive.extractall(inside, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} was not unpacked: {error}.") from error
        if not (Path(inside) / folder).is_dir():
            raise UserError(f"{path} holds no folder {folder}.")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(inside) / folder, root / folder)


def _leaves(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
