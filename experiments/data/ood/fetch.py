"""Single public files: found in the data root, or fetched once, checked and put there whole."""

from dataclasses import dataclass
from pathlib import Path

from experiments.data.readers.download import NOT_FETCHED, fetch, reason_of
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
    try:
        fetch(place, wanted.url, wanted.md5, packed=wanted.archive)
    except (*NOT_FETCHED, RunError) as error:
        what = f"unpack it as {wanted.path}" if wanted.archive else f"put it at {wanted.path}"
        raise UserError(
            f"{wanted.title} is not at {place}, and fetching {wanted.url} failed: get it where there is a "
            f"network and {what} under $IVON_DATA, now {root} ({reason_of(error)})"
        ) from error
    return place
