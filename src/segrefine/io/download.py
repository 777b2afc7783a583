"""Files and archives that the owners of data give to everybody: fetched, checked, unpacked, nothing left half done."""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from segrefine.core.errors import UserError

TIMEOUT = 20
"""Seconds without an answer after which a server counts as out of reach."""

CHUNK = 2**20

MOST = 64 * 2**30
"""Bytes that an archive may unpack to: several times the largest data set here. Zeros pack a thousandfold, so that a
small file could fill a disk."""


@dataclass(frozen=True)
class Archive:
    """A .zip or .tar at `url`; `folder` is what it unpacks to. That, or a folder of `also`, shows that it is there.

    It is checked by its own `md5` or, where GitHub packs it anew for whoever asks and promises the content alone, by
    git's hash of the folder, `tree`.
    """

    url: str
    md5: str | None
    folder: str
    tree: str | None = None
    also: tuple[str, ...] = ()


def provide(archives: tuple[Archive, ...], root: Path) -> None:
    """Put the folders of all archives below `root`; those that are there already cost nothing. Raises UserError, and an
    interrupted download goes on where it stopped."""
    for archive in archives:
        if not any((root / place).is_dir() for place in (archive.folder, *archive.also)):
            path = root / archive.url.rpartition("/")[2]
            fetch(archive.url, archive.md5, path)
            unpack(path, root, archive.folder, archive.tree)
            path.unlink()


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Of several processes one works in `root`, which is made, and the others wait."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".download.lock"):
        yield


def fetch(url: str, md5: str | None, path: Path) -> None:
    """Download to `path`, by way of a file .part that a later call goes on with."""
    if path.is_file() and md5 in (None, _md5(path)):
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
    except (OSError, HTTPException) as error:  # URLError is of the first, an answer cut short of the second
        if not (isinstance(error, HTTPError) and error.code == 416):  # nothing is left to send
            raise UserError(
                f"{url} could not be downloaded ({error}). What came so far is kept: run the command again to go on, "
                f"or fetch the file by other means and put it in {path.parent}."
            ) from error
    if md5 not in (None, _md5(part)):
        part.unlink()
        raise UserError(f"{url} came with another checksum than {md5}: it is damaged or was changed. It was deleted.")
    part.replace(path)


def unpack(path: Path, root: Path, folder: str, tree: str | None = None) -> None:
    """Unpack an archive and move its `folder`, from the top or one folder down, below `root`; UserError for an archive
    that would write elsewhere or too much, that is damaged or whose folder is not the `tree` given."""
    free = shutil.disk_usage(root).free
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as inside:
        try:
            (_unzip if path.suffix == ".zip" else _untar)(path, inside, free)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UserError(f"{path} was not unpacked: {error}. Delete it to have it fetched again.") from error
        # GitHub wraps everything in a folder of the repository's name.
        found = [place for place in (Path(inside) / folder, *Path(inside).glob(f"*/{folder}")) if place.is_dir()]
        if not found:
            raise UserError(f"{path} holds no folder {folder}.")
        if tree and git_tree(found[0]).hex() != tree:
            path.unlink()
            raise UserError(f"{path} held another {folder} than the known one (git tree {tree}). It was deleted.")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found[0], root / folder)


def _unzip(path: Path, folder: str, free: int) -> None:
    with zipfile.ZipFile(path) as archive:
        strange = [name for name in archive.namelist() if _leaves(name)]
        if strange:
            raise UserError(f"{path} was not unpacked: it holds {strange[0]!r}, outside its folder.")
        # zipfile takes no more from a member than is declared for it, and writes links as plain files.
        _refuse_too_much(path, free, sum(member.file_size for member in archive.infolist()))
        archive.extractall(folder)


def _untar(path: Path, folder: str, free: int) -> None:
    total = 0

    def checked(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo | None:
        """Sizes are added up as unpacking goes on: the list of a packed .tar is known at its end alone."""
        nonlocal total
        total += member.size
        _refuse_too_much(path, free, total)
        return tarfile.data_filter(member, place)

    with tarfile.open(path) as archive:
        archive.extractall(folder, filter=checked)


def _refuse_too_much(path: Path, free: int, size: int) -> None:
    """UserError if an archive takes `size` bytes unpacked, more than data sets have or than are `free` on the disk."""
    if size > min(MOST, free):
        limit = f"the disk has {free / 2**30:.1f} GiB free" if free < MOST else f"no data set here has {MOST >> 30} GiB"
        raise UserError(f"{path} was not unpacked: it would take {size / 2**30:.1f} GiB, and {limit}.")


def git_tree(folder: Path) -> bytes:
    """The SHA-1 that git gives a folder of plain files: a fingerprint of all their names and contents."""
    # git sorts folders as if their names ended in a slash
    entries = sorted(folder.iterdir(), key=lambda path: path.name + "/" * path.is_dir())
    content = b"".join(
        b"40000 " + path.name.encode() + b"\0" + git_tree(path)
        if path.is_dir()
        else b"100644 " + path.name.encode() + b"\0" + _git_hash("blob", path.read_bytes())
        for path in entries
    )
    return _git_hash("tree", content)


def _git_hash(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).digest()


def _leaves(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
