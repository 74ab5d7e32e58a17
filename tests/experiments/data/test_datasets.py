"""The registry of data sets, the data root and `open_split`."""

import numpy as np
import pytest
import torch

from experiments.data import DATASETS, data_root, open_split
from experiments.data.readers import digits
from experiments.errors import UserError


@pytest.mark.parametrize("name", DATASETS)
def test_facts_fit_together(name):
    info = DATASETS[name]
    assert info.name == name
    assert len(info.mean) == len(info.std) == info.channels
    assert all(0 < m < 1 for m in info.mean)
    assert all(0 < s < 1 for s in info.std)
    assert 0 <= info.crop_padding < info.side


def test_data_root_is_the_environment_variable_or_data(monkeypatch, tmp_path):
    monkeypatch.setenv("IVON_DATA", str(tmp_path / "elsewhere"))
    assert data_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("IVON_DATA")
    monkeypatch.chdir(tmp_path)
    assert data_root() == tmp_path / "data"
    assert list(tmp_path.iterdir()) == [], "asking for the data root must not make it"


def test_digits_are_what_the_registry_says(tmp_path):
    info, arrays = DATASETS["digits"], digits.load(tmp_path)
    assert arrays.train_images.shape == (info.train_size, 8, 8, 1) == (1000, 8, 8, 1)
    assert arrays.test_images.shape == (info.test_size, 8, 8, 1) == (797, 8, 8, 1)
    assert arrays.train_images.dtype == np.uint8
    assert arrays.train_images.max() == 255
    pixels = arrays.train_images / 255
    assert info.mean == pytest.approx([pixels.mean()], abs=5e-7)  # written with six digits
    assert info.std == pytest.approx([pixels.std()], abs=5e-7)


@pytest.mark.slow  # importing sklearn.datasets takes seconds
def test_digits_are_those_of_scikit_learn_each_in_one_split(tmp_path):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    arrays = digits.load(tmp_path)
    ours = np.concatenate([arrays.train_images, arrays.test_images]).reshape(-1, 64)
    rows = np.column_stack([ours, np.concatenate([arrays.train_labels, arrays.test_labels])])
    expected = np.column_stack([images * 255 // 16, labels]).astype(rows.dtype)
    assert np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    share = np.bincount(arrays.train_labels) / np.bincount(labels)
    assert np.abs(share - 1000 / 1797).max() < 1 / np.bincount(labels).min(), "classes are in proportion"


def test_train_and_held_divide_the_training_images():
    whole, kept, held = (
        open_split("digits", split, device="cpu", holdout=holdout)
        for split, holdout in (("train", 0.0), ("train", 0.1), ("held", 0.1))
    )
    assert (len(whole), len(kept), len(held)) == (1000, 900, 100)
    parts = [torch.cat([images for images, _ in data.batches(100)]) for data in (whole, kept, held)]
    whole_rows, both_rows = (x.flatten(1).numpy() for x in (parts[0], torch.cat(parts[1:])))
    assert np.array_equal(whole_rows[np.lexsort(whole_rows.T)], both_rows[np.lexsort(both_rows.T)])


def test_only_training_images_are_augmented():
    test = open_split("digits", "test", device="cpu")
    originals = {image.numpy().tobytes() for images, _ in test.batches(100) for image in images}
    assert all(
        image.numpy().tobytes() in originals for images, _ in test.epoch(0, 0, 100) for image in images
    )
    train = open_split("digits", "train", device="cpu")
    originals = {image.numpy().tobytes() for images, _ in train.batches(100) for image in images}
    same = [image.numpy().tobytes() in originals for images, _ in train.epoch(0, 0, 100) for image in images]
    assert 0 < sum(same) < 200, "one of nine crops is the original"


@pytest.mark.parametrize(
    ("name", "split", "holdout", "message"),
    [
        ("cifar11", "train", 0.0, "known: cifar10, cifar100"),
        ("digits", "valid", 0.0, "known: train, test, held"),
        ("digits", "held", 0.0, "holdout"),
        ("digits", "train", 1.0, "holdout"),
    ],
)
def test_what_is_not_there_is_one_clear_line(name, split, holdout, message):
    with pytest.raises(UserError, match=message) as caught:
        open_split(name, split, device="cpu", holdout=holdout)
    assert "\n" not in str(caught.value)
