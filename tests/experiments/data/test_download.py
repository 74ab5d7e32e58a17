"""Fetching archives, from a real server on this machine."""

import hashlib
import io
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.data.readers.download import Archive, ensure_folder
from experiments.errors import RunError


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.paths.append(self.path)


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path/web`; `paths` lists what was asked for."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.paths, server.folder = [], folder
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["this Python", "Python 3.11.2"])
def python(request, monkeypatch):
    """The older one's tarfile knows no filters."""
    if request.param != "this Python":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def publish(server, content: bytes, name: str = "toy.tar.gz", md5: str | None = None) -> Archive:
    (server.folder / name).write_bytes(content)
    return Archive(
        title="Toy",
        folder="toy",
        url=f"http://127.0.0.1:{server.server_port}/{name}",
        md5=md5 or hashlib.md5(content).hexdigest(),
    )


def left_behind(root: Path) -> list[str]:
    return [entry.name for entry in root.iterdir() if entry.name != ".toy.lock"]


def failure(root: Path, archive: Archive) -> str:
    with pytest.raises(RunError) as caught:
        ensure_folder(root, archive)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("pack", "name"), [(tar_of, "toy.tar.gz"), (zip_of, "toy.zip")])
def test_archive_arrives_whole_in_a_root_made_for_it(server, tmp_path, pack, name, python):
    archive = publish(server, pack({"toy/a.txt": b"one", "toy/deep/b.txt": b"two"}), name)
    folder = ensure_folder(tmp_path / "new" / "root", archive)
    assert folder == tmp_path / "new" / "root" / "toy"
    assert (folder / "deep" / "b.txt").read_bytes() == b"two"
    assert left_behind(folder.parent) == ["toy"]
    ensure_folder(folder.parent, archive)
    assert len(server.paths) == 1, "downloaded again although it is there"


def test_of_several_at_once_one_downloads(server, tmp_path):
    archive = publish(server, tar_of({"toy/a.txt": b"one"}))
    with ThreadPoolExecutor(6) as pool:  # each opens the lock for itself, as processes do
        folders = list(pool.map(lambda _: ensure_folder(tmp_path / "root", archive), range(6)))
    assert len(set(folders)) == 1
    assert len(server.paths) == 1


def test_wrong_checksum_is_refused_before_unpacking(server, tmp_path):
    archive = publish(server, tar_of({"toy/a.txt": b"one"}), md5="0" * 32)
    assert "not 00000" in failure(tmp_path / "root", archive)
    assert left_behind(tmp_path / "root") == []


DAMAGED = [b"no archive at all", tar_of({"toy/a": b"x" * 9999})[:-20]]


@pytest.mark.parametrize("content", DAMAGED, ids=["no archive", "cut short"])
def test_damaged_archive(server, tmp_path, content):
    assert "cannot unpack toy.tar.gz" in failure(tmp_path / "root", publish(server, content))
    assert left_behind(tmp_path / "root") == []


def test_nothing_is_written_outside(server, tmp_path, python):
    archive = publish(server, tar_of({"toy/a.txt": b"one", "../../../evil": b"!"}))
    assert "cannot unpack" in failure(tmp_path / "root", archive)
    assert not list(tmp_path.rglob("evil"))


def test_nothing_is_written_through_a_link(server, tmp_path, python):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("toy/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        evil = tarfile.TarInfo("toy/link/evil")
        evil.size = 1
        archive.addfile(evil, io.BytesIO(b"!"))
    assert "cannot unpack" in failure(tmp_path / "root", publish(server, packed.getvalue()))
    assert not list(tmp_path.rglob("evil"))


def test_another_folder_than_promised(server, tmp_path):
    archive = publish(server, tar_of({"other/a.txt": b"one"}))
    assert "does not hold the folder toy" in failure(tmp_path / "root", archive)


def test_without_a_network_the_way_round_is_told(server, tmp_path):
    archive = publish(server, b"")
    server.shutdown()
    server.server_close()
    message = failure(tmp_path / "root", archive)
    for part in ("Toy", str(tmp_path / "root" / "toy"), archive.url, "$IVON_DATA", "Connection refused"):
        assert part in message


def test_page_that_is_gone(server, tmp_path):
    archive = publish(server, b"x")
    (server.folder / "toy.tar.gz").unlink()
    assert "File not found" in failure(tmp_path / "root", archive)


def test_root_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "in the way" not in failure(tmp_path / "file" / "root", publish(server, b"x"))
    assert server.paths == []
