"""Paths as users write them, in options, variables of the environment and files: one reading for all."""

import os
import re
from pathlib import Path

from experiments.errors import UserError

_LEFT = re.compile(r"\$(\w+|\{\w+\})")


def user_path(text: str | Path, what: str, *, base: Path | None = None) -> Path:
    """The absolute path, with ~ and variables of the environment filled in.

    what: names the field or variable in a message. base: where a relative path starts, by default the working
    directory. UserError if a variable is not set or a user has no home, for a folder of that very name would
    be made.
    """
    told = f"{what} {str(text)!r}"
    filled = os.path.expandvars(text)
    if not filled:
        raise UserError(f"{what} is empty: must be a path")
    if left := _LEFT.search(filled):
        raise UserError(f"{told}: the variable {left[0]} is not set here; set it, or write it out")
    try:
        path = Path(filled).expanduser()
    except RuntimeError:
        raise UserError(f"{told}: there is no home folder {Path(filled).parts[0]}; write it out") from None
    return (base or Path()).absolute() / path
