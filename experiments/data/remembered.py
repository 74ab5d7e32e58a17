"""Places for what has been computed from data once: beside them or, where they are read-only, in the user's
cache. What lies there can be computed again, so it may be lost at any time.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from experiments.data.readers.disk import written_whole


def places(beside: Path) -> Iterator[Path]:
    """The file `beside` the data, and the one in the user's cache that stands in for it."""
    yield beside
    with suppress(RuntimeError):  # a user without a home
        told = Path(os.environ.get("XDG_CACHE_HOME", ""))
        cache = (
            told if told.is_absolute() else Path.home() / ".cache"
        )  # as the standard of this variable says
        folder = hashlib.sha256(os.fsencode(beside.parent.resolve())).hexdigest()[:16]
        yield cache / "ivon" / "data" / folder / beside.name


def remember(beside: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name for the first place that can be written; perhaps there is none."""
    for place in places(beside):
        try:
            if place != beside:
                place.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(place) as temporary:
                write(temporary)
            return
        except OSError:  # read-only or full
            continue
