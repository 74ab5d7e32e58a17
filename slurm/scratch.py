"""Data sets on the node's own disk: a shared file system is slow for what every epoch reads."""

import fcntl
import os
import shutil
from pathlib import Path

from experiments.data.root import data_root
from experiments.engine.spec import Spec


def use_copies(specs: list[Spec], scratch: Path) -> None:
    """Copy the data sets of `specs` to `scratch`, unless they are there, and make it the data root.

    Whatever else the data root has is linked: what is read once has no copy, but is looked for there.
    """
    root = data_root()
    folders = {folder for spec in specs for source in spec.sources if (folder := source.folder_below(root))}
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / ".lock").open("w") as lock:  # jobs of one node share the copy
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in sorted(folders):
            if not (root / folder).is_dir():
                continue
            top = scratch / Path(folder).parts[0]
            if top.is_symlink():  # of a job that did not need what is in it
                top.unlink()
            if not (scratch / folder).exists():
                partial = scratch / f"{folder}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(root / folder, partial)
                partial.rename(scratch / folder)
        for entry in root.glob("[!.]*"):  # no locks, nor downloads on their way
            link = scratch / entry.name
            if not link.exists():
                link.unlink(missing_ok=True)  # it may lead to a data root that has moved
                link.symlink_to(entry)
    os.environ["IVON_DATA"] = str(scratch)
