"""Where data sets live, and the check of those that need no place there."""

import os
from pathlib import Path

from experiments.paths import user_path

VARIABLE = "IVON_DATA"


def data_root() -> Path:
    """The folder named by the environment variable IVON_DATA, else `data` in the working directory.

    It is not made here: only a download makes a missing data root.
    """
    return user_path(os.environ.get(VARIABLE) or "data", VARIABLE)


def nothing_to_check(_root: Path) -> None:
    """For data that come with a dependency or download themselves."""
