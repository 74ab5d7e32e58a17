"""The log of a run: what happened to it, an event a line; what `status` and a curious user read."""

import json
import time
from pathlib import Path
from typing import Any

NAME = "log.jsonl"


def note(folder: Path, event: str, **details: Any) -> None:
    """Append an event: "started" (with `spec`), "stopped", "lost" (with its device), "failed", "over"."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a") as log:
        log.write(json.dumps({"event": event, "time": time.time(), **details}) + "\n")


def events(folder: Path) -> list[dict[str, Any]]:
    """All events so far; a line that is half written, by whoever was killed there, is left out."""
    try:
        lines = (folder / NAME).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def last(folder: Path) -> dict[str, Any]:
    """The latest event; empty before the first."""
    return next(reversed(events(folder)), {})


def attempts(folder: Path) -> int:
    """How often the run has been started."""
    return sum(event["event"] == "started" for event in events(folder))
