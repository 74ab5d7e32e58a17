"""Handwritten digits: 1,797 real grey images of 8x8 pixels that come with scikit-learn, not downloaded."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from experiments.data.holdout import split_holdout
from experiments.data.info import ArraySplits
from experiments.data.provenance import note, of_arrays
from experiments.errors import UserError

TEST_FRACTION = 797 / 1797  # leaves 1,000 for training
SPLIT_SEED = 20240217
LEVELS = 16  # scikit-learn's pixels are 0..16


def load(_root: Path) -> ArraySplits:
    """The digits with pixels scaled to 0..255; a fixed stratified split, 1,000 to train and 797 to test."""
    table = _read_table()
    images = (table[:, :-1].astype(np.uint16) * 255 // LEVELS).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int64)
    note("digits", lambda: of_arrays(images, labels))
    train, test = split_holdout(labels, TEST_FRACTION, SPLIT_SEED)
    return ArraySplits(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )


def _read_table() -> np.ndarray:
    """64 pixels and a label in each of 1,797 rows.

    Read past scikit-learn's `load_digits`: importing sklearn.datasets takes seconds, and every run of the
    demo would pay them.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits  # a version that keeps its table elsewhere

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels]).astype(np.uint8)
