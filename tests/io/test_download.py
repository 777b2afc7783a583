"""Downloads, from a server of our own on this machine: resumed, checked, unpacked safely, refused in words."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from miniatures import MINIATURES, ade20k
from scipy.io import savemat

from segrefine.core.config import read_group
from segrefine.core.errors import UserError
from segrefine.data.build import build_datamodule
from segrefine.data.sets import nyudv2
from segrefine.data.sets.ade20k import ADE20KDataModule
from segrefine.io import download
from segrefine.io.download import Archive, fetch, provide, unpack
from segrefine.io.lock import locked

CONTENT = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Gives `files`, whole or from an offset on, and keeps what was asked for."""

    files: dict[str, bytes]
    asked: list[str | None]
    gives_parts = True
    breaks_off_at: int | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        span = self.headers.get("Range")
        self.server.asked.append(span)
        span = span if self.server.gives_parts else None
        first = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        if first >= len(content):
            return self.send_error(416)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : self.server.breaks_off_at])
        return None

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {"a.zip": CONTENT}, []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize("have", [0, 1000, len(CONTENT)])
def test_a_download_goes_on_where_it_stopped(have: int, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    if have:
        (tmp_path / "a.zip.part").write_bytes(CONTENT[:have])
    fetch(server.url("a.zip"), md5(CONTENT), path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [f"bytes={have}-" if have else None]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]
    fetch(server.url("a.zip"), md5(CONTENT), path)
    assert len(server.asked) == 1  # nothing is fetched twice


def test_a_server_that_sends_all_of_it_again_is_not_appended_to(server: Server, tmp_path: Path) -> None:
    server.gives_parts = False
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    fetch(server.url("a.zip"), None, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [None, md5(CONTENT)])
def test_a_download_that_breaks_off_is_resumed_by_the_next_call(
    checksum: str | None, server: Server, tmp_path: Path
) -> None:
    server.breaks_off_at = 4000
    with pytest.raises(UserError, match=r"could not be downloaded .*run the command again to resume"):
        fetch(server.url("a.zip"), checksum, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:4000]
    server.breaks_off_at = None
    fetch(server.url("a.zip"), checksum, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=4000-"]


def test_a_damaged_download_is_deleted(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has another checksum"):
        fetch(server.url("a.zip"), md5(b"other"), tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_a_server_out_of_reach_is_told_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:10])
    for url in (server.url("gone/a.zip"), "http://127.0.0.1:9/a.zip"):
        with pytest.raises(UserError, match=rf"{url} could not be downloaded .*run the command again"):
            fetch(url, md5(CONTENT), tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:10]


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


def tarred(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def member(name: str, **options: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in options.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("up.zip", zipped("data/a", "../evil")),
        ("absolute.zip", zipped("data/a", "/tmp/evil")),
        ("windows.zip", zipped("data/a", "..\\evil")),
        ("up.tgz", tarred(member("data/a"), member("../evil"))),
        ("absolute.tgz", tarred(member("data/a"), member("/tmp/evil", size=1))),
        ("link.tgz", tarred(member("data/a"), member("data/b", type=tarfile.SYMTYPE, linkname="/etc"))),
        ("hard_link.tgz", tarred(member("data/a"), member("data/b", type=tarfile.LNKTYPE, linkname="../../evil"))),
        ("link_out.tgz", tarred(member("data/b", type=tarfile.SYMTYPE, linkname="../.."), member("data/b/evil"))),
        ("device.tgz", tarred(member("data/a", type=tarfile.CHRTYPE))),
        ("cut.tgz", tarred(member("data/a", size=9000))[:60]),
        ("cut.zip", zipped("data/a")[:20]),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # which holds the time, so processes differ
)
def test_hostile_and_damaged_archives_leave_nothing(name: str, content: bytes, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} was not unpacked"):
        unpack(root / name, root, "data")
    assert [path.name for path in tmp_path.rglob("*")] == ["root", name]


def test_a_link_in_a_zip_leads_nowhere(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("data/link")
    link.create_system, link.external_attr = 3, 0o120777 << 16  # what zip --symlinks writes
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    root = tmp_path / "root"
    root.mkdir()
    unpack(tmp_path / "b.zip", root, "data")
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert (root / "data/link").read_text() == "/etc/passwd"


def bomb(name: str, declared: int | None = None) -> bytes:
    """4 MiB of zeros in a few kilobytes, in a zip perhaps declared to be of another size."""
    zeros, buffer = b"\0" * 2**22, io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/a", zeros)
        size = len(zeros).to_bytes(4, "little")
        return buffer.getvalue().replace(size, (declared or len(zeros)).to_bytes(4, "little"))
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(member("data/a", size=len(zeros)), io.BytesIO(zeros))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "declared", "message"),
    [
        ("a.zip", None, "it would take 0.0 GiB, and no data set here has"),
        ("a.tgz", None, "it would take 0.0 GiB, and no data set here has"),
        ("lie.zip", 1000, "Bad CRC-32"),  # no more is read than was declared
    ],
)
@pytest.mark.parametrize("cause", ["MOST", "disk"])
def test_bombs_are_refused(
    name: str, declared: int | None, message: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cause == "MOST":
        monkeypatch.setattr(download, "MOST", 2**20)
    else:
        free = shutil.disk_usage(tmp_path)._replace(free=2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
        message = message.replace("no data set here has", "the disk has 0.0 GiB free")
    (tmp_path / name).write_bytes(bomb(name, declared))
    assert (tmp_path / name).stat().st_size < 10_000
    with pytest.raises(UserError, match=rf"{name} was not unpacked: .*{message}"):
        unpack(tmp_path / name, tmp_path, "data")
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_folders_of_several_archives_stand_beside_each_other(server: Server, tmp_path: Path) -> None:
    server.files = {"one.zip": zipped("kit/2010/a", "kit/readme"), "two.tgz": tarred(member("kit/2012/b"))}
    archives = tuple(
        Archive(server.url(name), md5(server.files[name]), folder)
        for name, folder in (("one.zip", "kit/2010"), ("two.tgz", "kit/2012"))
    )
    root = tmp_path / "new" / "root"
    with locked(root / ".lock"):
        provide(archives, root)
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} >= {"kit/2010/a", "kit/2012/b"}
    assert not list(root.glob("*.zip"))
    provide(archives, root)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("camvid", "CamVid"),
        ("ade20k", "ADEChallengeData2016"),
        ("voc2012", "VOCdevkit/VOC2012"),
        ("voc2012", "VOCdevkit"),
        ("voc2012_aug", "benchmark_RELEASE"),
    ],
)
def test_what_lies_in_another_accepted_place_is_not_fetched(
    name: str, inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the archive wraps is the root itself, or for SBD a folder of another name."""
    monkeypatch.setattr(download, "fetch", lambda url, *arguments: pytest.fail(f"fetches {url}"))
    MINIATURES[name](tmp_path)
    if inner == "benchmark_RELEASE":
        (tmp_path / inner).rename(tmp_path / "SBD")
    config = read_group("datamodule", name) | {"download": True}
    root = tmp_path if inner == "benchmark_RELEASE" else tmp_path / inner
    assert len(build_datamodule(config | {"root": str(root)}).dataset("train")) >= 2
    monkeypatch.setattr(download, "fetch", lambda url, *arguments: (_ for _ in ()).throw(UserError("fetches")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="fetches"):
        build_datamodule(config | {"root": str(tmp_path / "empty")})


def test_a_data_set_comes_by_itself(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ade20k(tmp_path / "theirs")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (tmp_path / "theirs").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "theirs"))
    server.files["ADE.zip"] = buffer.getvalue()
    ours = Archive(server.url("ADE.zip"), md5(buffer.getvalue()), ADE20KDataModule.archives[0].folder)
    monkeypatch.setattr(ADE20KDataModule, "archives", (ours,))
    config = read_group("datamodule", "ade20k") | {"root": str(tmp_path / "mine"), "download": True}
    assert len(build_datamodule(config).dataset("train")) == 2


def test_a_folder_is_known_by_its_content_where_its_archive_is_packed_on_demand(server: Server, tmp_path: Path) -> None:
    # find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum, over a and d/b, "x" in each
    known = "12b76b0b40a143c0481ed0b10f8b13746d6b4af502a6548ad8c49ccac3dde0b0"
    wrapped = ("Project-abc/CamVid/a", "Project-abc/CamVid/d/b")
    server.files["abc.zip"] = zipped(*wrapped[::-1], "Project-abc/more")
    provide((Archive(server.url("abc.zip"), None, "CamVid", known),), tmp_path)
    assert (tmp_path / "CamVid/d/b").read_text() == "x"
    assert not list(tmp_path.glob("*.zip"))
    for changed in (wrapped[:1], (*wrapped, "Project-abc/CamVid/e"), (wrapped[0], "Project-abc/CamVid/d/c")):
        server.files["abc.zip"] = zipped(*changed)
        with pytest.raises(UserError, match="held another CamVid than expected"), locked(tmp_path / "other/.lock"):
            provide((Archive(server.url("abc.zip"), None, "CamVid", known),), tmp_path / "other")
        assert not list((tmp_path / "other").glob("[!.]*"))


def test_nyudv2_is_made_of_the_labelled_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 48, 64, 3), np.uint8)
    stored = rng.integers(0, 895, (3, 48, 64), np.uint16)
    mapping = rng.integers(1, 41, 894).astype(np.uint8)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:  # MATLAB's order of axes is the other way round
        file["images"], file["labels"] = pictures.transpose(0, 3, 2, 1), stored.transpose(0, 2, 1)
    savemat(tmp_path / "classMapping40.mat", {"mapClass": mapping[None]})
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.uint16([[2]]), "testNdxs": np.uint16([[1], [3]])})
    server.files = {name: (tmp_path / name).read_bytes() for name in nyudv2.SOURCES}
    sources = {name: (server.url(name), md5(content)) for name, content in server.files.items()}
    monkeypatch.setattr(nyudv2, "SOURCES", sources)

    config = read_group("datamodule", "nyudv2") | {"root": str(tmp_path / "mine"), "download": True}
    datamodule = build_datamodule(config)
    for split, numbers in {"train": [1], "val": [0, 2]}.items():
        dataset = datamodule.dataset(split)
        assert dataset.ids == [f"img_{5001 + number}" for number in numbers]
        for position, number in enumerate(numbers):
            image, label = dataset.read(position)
            assert np.array_equal(image.permute(1, 2, 0), pictures[number])
            assert label.tolist() == [
                [mapping[value - 1] - 1 if value else 255 for value in row] for row in stored[number]
            ]
    build_datamodule(config)
    assert len(server.asked) == 3  # nothing is fetched twice, though the large file is gone
    assert not (tmp_path / "mine/nyu_depth_v2_labeled.mat").exists()


def test_what_needs_a_login_says_where(tmp_path: Path) -> None:
    config = read_group("datamodule", "cityscapes") | {"root": str(tmp_path), "download": True}
    with pytest.raises(UserError, match=r"datamodule=cityscapes cannot be downloaded.*with a login"):
        build_datamodule(config)
    config = read_group("datamodule", "ade20k") | {"download": True}
    with pytest.raises(UserError, match=r"Set datamodule\.root to the folder that the download goes to"):
        build_datamodule(config)
