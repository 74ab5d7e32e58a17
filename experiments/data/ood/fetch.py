"""Single public files: found in the data root, or fetched once and put there whole; checked either way."""

from dataclasses import dataclass
from pathlib import Path

from experiments.data.provenance import check_sums
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
    """The file (of an archive: the folder) in `root`, fetched if it is missing, by one process of several.

    UserError if that fails, or if the file is not as published.
    """
    place = root / wanted.path
    try:
        fetch(place, wanted.url, wanted.md5, packed=wanted.archive)
    except (*NOT_FETCHED, RunError) as error:
        what = f"unpack it as {wanted.path}" if wanted.archive else f"put it at {wanted.path}"
        raise UserError(
            f"{wanted.title} is not at {place}, and fetching {wanted.url} failed: get it where there is a "
            f"network and {what} under $IVON_DATA, now {root} ({reason_of(error)})"
        ) from error
    if not wanted.archive:
        remedy = "move it away, and it is fetched again; images of your own go to ood-parts/ in the data root"
        check_sums(root, place.parent, {place.name: wanted.md5}, remedy)
    return place
