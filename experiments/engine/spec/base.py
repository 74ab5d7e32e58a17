"""What every specification has: strict validation, and an `id` that is a hash of its canonical JSON."""

import hashlib
import json
from difflib import get_close_matches
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from baselines import METHODS


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean ...?` or `; known: ...` for a message about an unknown name."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def known_name(name: str, known: list[str]) -> str:
    if name not in known:
        raise ValueError(f"unknown; {nearest(name, known)}")
    return name


class Spec(BaseModel):
    """What all specifications share."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: ClassVar[str]  # the folder of its records

    @property
    def id(self) -> str:
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def one_line(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: field, value, what is allowed."""
    first = error.errors()[0]
    place = ".".join(
        str(part) for part in first["loc"] if part not in ("train", "evaluate", "mixture", "ood", *METHODS)
    )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{place}: no such field"
    value = first["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{value!r}: "
    return f"{place or 'specification'}: {shown}{message[0].lower()}{message[1:]}"
