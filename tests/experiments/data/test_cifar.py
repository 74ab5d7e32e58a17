"""The CIFAR reader: the real sets where they are, and what it refuses."""

import hashlib
import os
import pickle

import numpy as np
import pytest

from experiments.data.readers import cifar
from experiments.data.readers.cifar import CIFAR10, CIFAR100, load
from experiments.data.readers.safe_pickle import read_pickled_arrays
from experiments.errors import RunError, UserError


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """Ten random images in each of the six files of CIFAR-10's layout, declared to be no published ones."""
    monkeypatch.setattr(cifar, "TRAIN_SIZE", 50)
    monkeypatch.setattr(cifar, "TEST_SIZE", 10)
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "MODIFIED.txt").write_text("ten random images a file\n")
    for name in (*CIFAR10.train_files, *CIFAR10.test_file):
        pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        write(folder / name, {"data": pixels, "labels": rng.permutation(10).tolist()})
    return folder


def write(file, content) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def digest(images: np.ndarray) -> str:
    return hashlib.sha256(images).hexdigest()


def test_cifar10_is_exact(real_data):
    arrays = load(real_data("cifar-10-batches-py"), CIFAR10)
    assert np.bincount(arrays.train_labels).tolist() == [5000] * 10
    assert np.bincount(arrays.test_labels).tolist() == [1000] * 10
    assert digest(arrays.train_images) == "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"
    assert digest(arrays.test_images) == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"


def test_cifar100_is_balanced_and_its_test_exact(lossy_cifar100):
    arrays = load(lossy_cifar100, CIFAR100)
    assert np.bincount(arrays.train_labels).tolist() == [500] * 100
    assert np.bincount(arrays.test_labels).tolist() == [100] * 100
    assert arrays.train_images.shape == (50_000, 32, 32, 3)
    assert digest(arrays.test_images) == "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19"


def test_pixels_go_from_planes_to_channels_last(small_set):
    arrays = load(small_set.parent, CIFAR10)
    content = read_pickled_arrays(small_set / "data_batch_2")
    planes = content["data"].reshape(10, 3, 32, 32)
    assert arrays.train_images.shape == (50, 32, 32, 3)
    assert arrays.train_images[13, 5, 7].tolist() == planes[3, :, 5, 7].tolist()
    assert arrays.train_labels[10:20].tolist() == content["labels"]
    assert arrays.train_labels.dtype == np.int64


def test_arrays_pickled_by_older_numpy_are_read(small_set):
    file = small_set / "test_batch"
    old = file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    new = read_pickled_arrays(file)["data"]
    file.write_bytes(old)
    assert np.array_equal(read_pickled_arrays(file)["data"], new)


class Attack:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def refused(small_set) -> str:
    with pytest.raises(RunError) as caught:
        load(small_set.parent, CIFAR10)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_code_in_a_pickle_is_not_run(small_set, tmp_path):
    trace = tmp_path / "trace"
    write(small_set / "data_batch_3", {"data": Attack(os.mkdir, str(trace)), "labels": []})
    message = refused(small_set)
    assert "data_batch_3" in message
    assert "mkdir" in message
    assert not trace.exists()


def test_codecs_other_than_that_of_bytes_are_not_called(small_set):
    import _codecs

    write(small_set / "data_batch_1", {"data": Attack(_codecs.encode, "abc", "rot13"), "labels": []})
    assert "rot13" in refused(small_set)


@pytest.mark.parametrize("kept", [0, 3, 100, 20_000])
def test_truncated_file(small_set, kept):
    file = small_set / "test_batch"
    file.write_bytes(file.read_bytes()[:kept])
    assert "test_batch" in refused(small_set)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "not a dictionary"),
        ({"labels": [0] * 10}, "'data' must be uint8"),
        ({"data": np.zeros((9, 3072), np.uint8), "labels": [0] * 9}, "(9, 3072)"),
        ({"data": np.zeros((10, 3072), np.float32), "labels": [0] * 10}, "float32"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9}, "list of 10"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9 + [10]}, "0..9, found 0..10"),
        ({"data": np.zeros((10, 3072), np.uint8), "fine_labels": [0] * 10}, "'labels'"),
    ],
)
def test_other_content(small_set, content, reason):
    write(small_set / "data_batch_5", content)
    message = refused(small_set)
    assert "data_batch_5" in message
    assert reason in message


@pytest.mark.parametrize(
    ("damage", "word"), [(lambda f: f.unlink(), "missing"), (lambda f: os.truncate(f, 20_000), "cut short")]
)
def test_a_part_of_the_set_is_refused_before_anything_starts(damage, word, small_set):
    cifar.check(small_set.parent, CIFAR10)
    damage(small_set / "data_batch_3")
    with pytest.raises(UserError, match=f"data_batch_3 is {word}: move the folder away"):
        cifar.check(small_set.parent, CIFAR10)
    cifar.check(small_set.parent / "elsewhere", CIFAR10)  # it will be downloaded


def test_missing_file(small_set):
    (small_set / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"cannot read .*data_batch_4: No such file"):
        load(small_set.parent, CIFAR10)
