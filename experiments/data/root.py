"""Where data sets live."""

import os
from pathlib import Path


def data_root() -> Path:
    """The folder named by the environment variable IVON_DATA, else `data` in the working directory.

    It is not made here: only a download makes a missing data root.
    """
    return Path(os.environ.get("IVON_DATA") or "data").expanduser().absolute()
