"""The log of a run: what happened to it, an event a line; what `status` and a curious user read."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from experiments import strict_json

NAME = "log.jsonl"


@with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
class Event(TypedDict):
    """What readers of a log rely on."""

    event: str
    time: Annotated[float, Field(ge=0, le=1e11)]  # seconds since 1970
    why: NotRequired[str]
    traceback: NotRequired[str]
    git: NotRequired[str | None]
    spec: NotRequired[dict[str, Any]]


_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def note(folder: Path, event: str, **details: Any) -> None:
    """Append an event: "started" (with `spec`, `git`), "stopped", "lost" (its device), "failed", "over"."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": event, "time": time.time(), **details}) + "\n"
    with (folder / NAME).open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read() != b"\n":  # cut by a kill or a full disk; this event is not to be lost with it
                line = "\n" + line
        log.write(line.encode())


def events(folder: Path) -> list[dict[str, Any]]:
    """All events so far; a line that is damaged, half written by whoever was killed there, is left out."""
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except OSError:  # none yet, or not ours to read
        return []
    found = []
    for line in lines:
        with suppress(ValueError):
            found.append(dict(_EVENT.validate_python(strict_json.parse(line))))
    return found


def last(folder: Path) -> dict[str, Any]:
    """The latest event; empty before the first."""
    return next(reversed(events(folder)), {})


def attempts(folder: Path) -> int:
    """How often the run has been started."""
    return len(_starts(folder))


def revisions(folder: Path) -> list[str | None]:
    """The revisions of the code that have worked on the run, each once, in order; None: not known."""
    return list(dict.fromkeys(event.get("git") for event in _starts(folder)))


def _starts(folder: Path) -> list[dict[str, Any]]:
    return [event for event in events(folder) if event["event"] == "started"]
