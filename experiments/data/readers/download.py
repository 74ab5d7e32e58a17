"""Fetching a public archive once: checked, unpacked aside, and moved into place whole."""

import hashlib
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from experiments.data.readers.disk import exclusive
from experiments.errors import RunError

TIMEOUT_SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A .tar.gz or .zip on the web that unpacks to one folder."""

    title: str
    folder: str
    url: str
    md5: str


def ensure_folder(root: Path, archive: Archive) -> Path:
    """The unpacked folder under `root`, downloaded first if it is missing, by one process of several."""
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / f".{archive.folder}.lock"):
            if not folder.is_dir():
                _download_into_place(folder, archive)
    except (OSError, HTTPException) as error:  # no network, a broken transfer, a full or read-only disk
        if isinstance(error, HTTPError):
            error.close()  # it is also the server's answer, with an open connection
        raise RunError(f"{_missing(folder, archive)} ({getattr(error, 'reason', None) or error})") from error
    return folder


def _missing(folder: Path, archive: Archive) -> str:
    return (
        f"{archive.title} is not in {folder}, and fetching {archive.url} failed: unpack it where there is a "
        f"network and put the folder {archive.folder} under $IVON_DATA, now {folder.parent}"
    )


def _download_into_place(folder: Path, archive: Archive) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{archive.folder}-") as aside:
        file = Path(aside) / archive.url.rsplit("/", 1)[-1]
        download(archive, file)
        unpack(file, Path(aside) / "unpacked")
        unpacked = Path(aside) / "unpacked" / archive.folder
        if not unpacked.is_dir():
            raise RunError(f"{archive.url} does not hold the folder {archive.folder}")
        unpacked.replace(folder)


def download(archive: Archive, file: Path) -> None:
    print(f"downloading {archive.url}", file=sys.stderr, flush=True)
    digest = hashlib.md5(usedforsecurity=False)
    with urlopen(archive.url, timeout=TIMEOUT_SECONDS) as source, file.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != archive.md5:
        raise RunError(
            f"{archive.url} arrived with md5 {digest.hexdigest()}, not {archive.md5}: try again later"
        )


def unpack(file: Path, target: Path) -> None:
    """Unpack without letting a member write outside `target`."""
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(target)  # strips drive letters, leading slashes and ".."
        else:
            with tarfile.open(file) as archive:
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(target, filter="data")
                else:  # Python before 3.11.4, as Debian 12 has it
                    archive.extractall(target, members=_plain_members(archive, target.resolve()))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise RunError(f"cannot unpack {file.name}: {' '.join(str(error).split())}") from error


def _plain_members(archive: tarfile.TarFile, target: Path) -> Iterator[tarfile.TarInfo]:
    """The members, which must be files and folders within `target`."""
    for member in archive:
        if not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
        if not (target / member.name).resolve().is_relative_to(target):
            raise tarfile.TarError(f"{member.name!r} would be outside the destination")
        yield member
