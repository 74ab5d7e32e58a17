"""Real data where there is some: IVON_DATA names the folder, and without it these tests are skipped."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from experiments.data.root import data_root


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The data root, if it holds the folder asked for."""

    def find(folder: str) -> Path:
        if not os.environ.get("IVON_DATA") or not (data_root() / folder).is_dir():
            pytest.skip(f"IVON_DATA names no folder with {folder}")
        return data_root()

    return find


@pytest.fixture
def lossy_cifar100(real_data, tmp_path) -> Path:
    """A data root with CIFAR-100, declared to be modified: its training images may have been compressed."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file in (real_data(folder.name) / folder.name).iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "MODIFIED.txt").write_text("training images compressed as JPEG\n")
    return tmp_path


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """The two photographs of 640x427 pixels that come with scikit-learn."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    return [Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
