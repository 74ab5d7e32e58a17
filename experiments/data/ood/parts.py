"""A part of a set, for machines without the whole: `ood-parts/<name>.npz` in the data root.

It is used only where the whole set is not there, and it says what it is, so that captions can.
"""

from pathlib import Path

import numpy as np

from experiments.data.ood.info import OodImages
from experiments.data.readers.disk import written_whole
from experiments.errors import RunError

FOLDER = "ood-parts"


def read_part(root: Path, name: str) -> OodImages | None:
    """The part of the set `name`; None if there is none."""
    file = root / FOLDER / f"{name}.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            images, only = content["images"], str(content["only"])
    except Exception as error:  # damaged bytes may raise anything: KeyError, BadZipFile, zlib.error, ...
        raise RunError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise RunError(f"{file}: 'images' must be uint8 (N, 32, 32, 3), found {images.dtype} {images.shape}")
    return OodImages(images=images, only=only)


def write_part(root: Path, name: str, part: OodImages) -> Path:
    """Keep uint8 images (N, 32, 32, 3) as a part of the set `name`; `only` must say what they are."""
    if not part.only:
        raise ValueError("only = None or empty; a part must say what it is, for captions")
    file = root / FOLDER / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        np.savez_compressed(temporary, images=part.images, only=np.array(part.only))
    return file
