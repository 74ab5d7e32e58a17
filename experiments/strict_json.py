"""JSON read back with suspicion: files get cut, edited by hand and merged by tools."""

import json
import math
from typing import Any

from pydantic_core import from_json


def parse(text: bytes) -> Any:
    """The value of a JSON text; ValueError that says in one line what it is or has instead.

    Beyond what `json.loads` refuses: more than 200 brackets within each other, a key twice in one object, and
    numbers that are not finite.
    """
    try:
        from_json(text, allow_inf_nan=False)  # the one of the two with a limit to nesting
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    return json.loads(text, object_pairs_hook=_once, parse_float=_finite)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"has {twice!r} twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"has the number {text[:40]}, which is not finite")
    return number
