"""The peer: the package `ivon-opt`, which imports as `ivon` like ours and so needs a folder of its own."""

import importlib.util
import os
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from experiments.paths import user_path

VERSION = "0.1.3"
VARIABLE = "IVON_OPT"
HOW_TO_GET_IT = (
    f"ivon-opt left out: `pip install --no-deps --target FOLDER ivon-opt=={VERSION}`, "
    f"then --ivon-opt FOLDER or {VARIABLE}=FOLDER"
)
_MODULE = "ivon_opt_of_the_benchmarks"


def find(folder: str | Path | None = None) -> Any | None:
    """Its class IVON from `folder`, or from the folder in the environment; None where neither is given."""
    folder = folder or os.environ.get(VARIABLE)
    return load(user_path(folder, VARIABLE)) if folder else None


def load(folder: Path) -> Any:
    """Its class IVON from the folder where pip has put it, under another module name, beside our `ivon`."""
    versions = {found.name: found.version for found in distributions(path=[str(folder)])}
    if versions.get("ivon-opt") != VERSION:
        raise ValueError(
            f"--ivon-opt must be a folder with ivon-opt {VERSION} (pip install --no-deps --target "
            f"FOLDER ivon-opt=={VERSION}), got {str(folder)!r}"
        )
    package = folder / "ivon"
    spec = importlib.util.spec_from_file_location(
        _MODULE, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # its parts import each other through this name
    spec.loader.exec_module(module)
    return module.IVON
