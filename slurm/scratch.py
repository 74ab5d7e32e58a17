"""Data sets on the node's own disk: a shared file system is slow for what every epoch reads."""

import fcntl
import os
import shutil
from pathlib import Path

from experiments.data.root import data_root
from experiments.engine.spec import Spec


def use_copies(specs: list[Spec], scratch: Path) -> None:
    """Copy the data sets of `specs` to `scratch`, unless they are there, and make it the data root."""
    folders = {
        folder for spec in specs for source in spec.sources if (folder := source.folder_below(data_root()))
    }
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / ".lock").open("w") as lock:  # jobs of one node share the copy
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in sorted(folders):
            if (data_root() / folder).is_dir() and not (scratch / folder).exists():
                partial = scratch / f"{folder}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(data_root() / folder, partial)
                partial.rename(scratch / folder)
    os.environ["IVON_DATA"] = str(scratch)
