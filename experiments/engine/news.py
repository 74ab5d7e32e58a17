"""How far a run is: the latest news, which its process leaves in its folder for whoever asks."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from experiments import strict_json

NAME = "progress.json"
Seconds = Annotated[float, Field(ge=0, le=1e10)]


@with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
class News(TypedDict):
    """A training also says where it is; the time is that of all attempts."""

    fraction: Annotated[float, Field(ge=0, le=1)]
    at: NotRequired[str]
    seconds: NotRequired[Seconds]


_NEWS: TypeAdapter[News] = TypeAdapter(News)


def write(folder: Path, news: dict[str, Any]) -> None:
    """Replace what was there; a full disk keeps no news, and the next checkpoint will tell."""
    temporary = folder / ".progress.tmp"
    try:
        temporary.write_text(json.dumps(news))
        os.replace(temporary, folder / NAME)
    except OSError:
        temporary.unlink(missing_ok=True)


def read(folder: Path) -> News | None:
    """None if there are none, or none that could be understood."""
    try:
        return _NEWS.validate_python(strict_json.parse((folder / NAME).read_bytes()))
    except (OSError, ValueError):
        return None
