"""Data sets on the node's own disk: a shared file system is slow for what every epoch reads."""

import os
import shutil
import sys
from pathlib import Path

from experiments.data.readers.disk import exclusive
from experiments.data.root import data_root
from experiments.engine.ownership import Foreign, own_folder
from experiments.engine.spec import Spec


def use_copies(specs: list[Spec], scratch: Path) -> None:
    """Copy the data sets of `specs` to `scratch`, unless they are there, and make it the data root.

    Whatever else the data root has is linked: what is read once has no copy, but is looked for there. A
    folder that others can write to is not used, for they could exchange what the runs read.
    """
    try:
        scratch = own_folder(scratch)
    except Foreign as error:
        told = f"no copies of data in {scratch}: {error}; name a folder of your own as data_scratch"
        print(f"warning: {told}", file=sys.stderr, flush=True)
        return
    root = data_root()
    folders = {folder for spec in specs for source in spec.sources if (folder := source.folder_below(root))}
    with exclusive(scratch / ".lock"):  # jobs of one node share the copy
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
