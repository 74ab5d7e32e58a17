"""Arrays from MATLAB files."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from experiments.errors import RunError


def read_mat(file: Path, variable: str) -> np.ndarray:
    """One numeric variable of a file of version 4 to 7.2; no code in the file is run."""
    try:
        content = loadmat(file, variable_names=[variable])
    except Exception as error:  # damaged bytes may raise anything: ValueError, zlib.error, TypeError, ...
        raise RunError(f"cannot read {file}: {' '.join(str(error).split())}; was it copied whole?") from error
    array = content.get(variable)
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
        raise RunError(f"{file} does not hold whole numbers named {variable!r}")
    return array
