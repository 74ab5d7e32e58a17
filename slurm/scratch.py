"""Data sets on the node's own disk: a shared file system is slow for what every epoch reads."""

import fcntl
import os
import shutil
from pathlib import Path

from experiments.data import DATASETS
from experiments.data.root import data_root
from experiments.engine.spec import Spec


def use_copies(specs: list[Spec], scratch: Path) -> None:
    """Copy the data sets of `specs` to `scratch`, unless they are there, and make it the data root."""
    names = {spec.trainings[0].dataset for spec in specs}
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / ".lock").open("w") as lock:  # jobs of one node share the copy
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in sorted(names):
            folder = DATASETS[name].folder
            if folder and (data_root() / folder).is_dir() and not (scratch / folder).exists():
                partial = scratch / f"{folder}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(data_root() / folder, partial)
                partial.rename(scratch / folder)
    os.environ["IVON_DATA"] = str(scratch)
