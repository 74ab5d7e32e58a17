"""Fetching public files and archives once: checked, unpacked aside, and moved into place whole."""

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
NOT_FETCHED = (OSError, HTTPException)  # no network, a broken transfer, a full or read-only disk


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
    try:
        fetch(folder, archive.url, archive.md5, packed=True)
    except NOT_FETCHED as error:
        raise RunError(
            f"{archive.title} is not in {folder}, and fetching {archive.url} failed: unpack it where "
            f"there is a network and put the folder {archive.folder} under $IVON_DATA, now {root} "
            f"({reason_of(error)})"
        ) from error
    return folder


def fetch(place: Path, url: str, md5: str, *, packed: bool) -> None:
    """Download `place` if it is missing, by one process of several.

    packed: `url` is an archive that holds the folder of this name. NOT_FETCHED, or RunError for what arrived.
    """
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(place.parent / f".{place.name}.lock"):
        if place.exists():  # another process has fetched it meanwhile
            return
        # Into a folder beside its place, then moved: `place` is never there in part.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as aside:
            file = Path(aside) / url.rsplit("/", 1)[-1]
            download(url, md5, file)
            if packed:
                unpack(file, Path(aside) / "unpacked")
                file = Path(aside) / "unpacked" / place.name
                if not file.is_dir():
                    raise RunError(f"{url} does not hold the folder {place.name}")
            file.replace(place)


def reason_of(error: Exception) -> object:
    """Why `fetch` failed, for a message."""
    if isinstance(error, HTTPError):
        error.close()  # it is also the server's answer, with an open connection
    return getattr(error, "reason", None) or error


def download(url: str, md5: str, file: Path) -> None:
    print(f"downloading {url}", file=sys.stderr, flush=True)
    digest = hashlib.md5(usedforsecurity=False)
    with urlopen(url, timeout=TIMEOUT_SECONDS) as source, file.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != md5:
        raise RunError(f"{url} arrived with md5 {digest.hexdigest()}, not {md5}: try again later")


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
