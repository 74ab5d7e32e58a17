"""Single public files: found in the data root, or fetched once, checked and put there whole."""

import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from experiments.data.readers.disk import exclusive
from experiments.data.readers.download import Archive, download, unpack
from experiments.errors import RunError, UserError


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file on the web and its place: `path` below the data root, or the folder an archive unpacks to."""

    title: str
    path: str
    url: str
    md5: str
    archive: bool = False


def ensure(root: Path, wanted: PublicFile) -> Path:
    """The file (of an archive: the folder) in `root`, fetched if it is missing, by one process of several."""
    place = root / wanted.path
    if place.exists():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(place.parent / f".{place.name}.lock"):
            if not place.exists():
                _fetch(place, wanted)
    except (OSError, HTTPException, RunError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is also the server's answer, with an open connection
        reason = getattr(error, "reason", None) or error
        what = f"unpack it as {wanted.path}" if wanted.archive else f"put it at {wanted.path}"
        raise UserError(
            f"{wanted.title} is not at {place}, and fetching {wanted.url} failed: get it where there is a "
            f"network and {what} under $IVON_DATA, now {root} ({reason})"
        ) from error
    return place


def _fetch(place: Path, wanted: PublicFile) -> None:
    """Into a folder beside its place, then moved: `place` is never there in part."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as aside:
        file = Path(aside) / wanted.url.rsplit("/", 1)[-1]
        download(Archive(title=wanted.title, folder=place.name, url=wanted.url, md5=wanted.md5), file)
        if wanted.archive:
            unpack(file, Path(aside) / "unpacked")
            file = Path(aside) / "unpacked" / place.name
            if not file.is_dir():
                raise RunError(f"{wanted.url} does not hold the folder {place.name}")
        file.replace(place)
