"""Damaged files of the right size are refused by their public checksums, which are computed once."""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from experiments.data import DATASETS
from experiments.data.checksums import checksums
from experiments.data.provenance import noted
from experiments.data.readers import cifar
from experiments.errors import UserError


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b/c"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(rng.bytes(1000))
    return [tmp_path / "root" / "a", tmp_path / "root" / "b" / "c"]


def md5(file) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def memory_of(root):
    return json.loads((root / ".checksums.json").read_text())


def test_checksums_are_computed_once_and_again_when_a_file_has_changed(files, tmp_path):
    root = tmp_path / "root"
    assert checksums(root, files) == [md5(file) for file in files]
    assert checksums(root, files, "sha256")[0] == hashlib.sha256(files[0].read_bytes()).hexdigest()

    memory = memory_of(root)
    memory["md5 a"][-1] = "remembered"
    (root / ".checksums.json").write_text(json.dumps(memory))
    assert checksums(root, files) == ["remembered", md5(files[1])]

    before = files[0].stat()
    files[0].write_bytes(bytes(1000))
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times would
    assert checksums(root, files) == [md5(file) for file in files]


@pytest.mark.parametrize(
    "damage",
    [b"", b"[1]", b"\xff", b'{"md5 a": [1], "md5 b/c": 3}', b"[" * 100_000],
    ids=["empty", "list", "no text", "other entries", "deep"],
)
def test_a_damaged_memory_costs_time_only(files, tmp_path, damage):
    root = tmp_path / "root"
    (root / ".checksums.json").write_bytes(damage)
    assert checksums(root, files) == [md5(file) for file in files]
    assert len(memory_of(root)) == 2


@pytest.mark.parametrize("cache", ["writable", "read-only"])
def test_a_data_root_that_cannot_be_written_works(files, tmp_path, monkeypatch, cache):
    root = tmp_path / "root"
    (root / ".checksums.json").mkdir()  # in the way, as on a read-only disk; root could write there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if cache == "read-only":
        (tmp_path / "cache").touch()
    for _ in range(2):
        assert checksums(root, files) == [md5(file) for file in files]
    kept = [path for path in (tmp_path / "cache").rglob("*.json") if path.is_file()]
    assert len(kept) == (cache == "writable")
    if kept:
        kept[0].write_text(kept[0].read_text().replace(md5(files[0]), "remembered"))
        assert checksums(root, files)[0] == "remembered"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"cannot read {tmp_path}/x: No such file"):
        checksums(tmp_path, [tmp_path / "x"])


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """Ten random images in each of CIFAR-10's files, with their own sums as the published ones."""
    monkeypatch.setattr(cifar, "TRAIN_SIZE", 50)
    monkeypatch.setattr(cifar, "TEST_SIZE", 10)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    layout = cifar.CIFAR10
    sums = {}
    for name in (*layout.train_files, *layout.test_file):
        pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": rng.permutation(10).tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))  # bytes as they are
        sums[name] = md5(folder / name)
    test_file = {name: sums.pop(name) for name in layout.test_file}
    monkeypatch.setattr(cifar, "CIFAR10", replace(layout, train_files=sums, test_file=test_file))
    return folder


def read(name, root) -> dict:
    found = {}
    with noted(found.__setitem__):
        DATASETS[name].load(root)
    return found


def flip_pixels(file) -> None:
    """Other pixels in a file of the same form and size."""
    content = bytearray(file.read_bytes())
    content[-20_000:-19_000] = bytes(1000)
    file.write_bytes(content)


def test_random_bytes_in_a_cifar_batch_are_refused_and_a_plan_says_so(small_cifar):
    info, root = DATASETS["cifar10"], small_cifar.parent
    assert info.where(root) == f"found in {small_cifar}"
    file = small_cifar / "data_batch_3"
    published = md5(file)
    flip_pixels(file)
    for ask in (info.check, info.load):
        with pytest.raises(UserError) as caught:
            ask(root)
        for part in (str(file), md5(file), published, "move the folder", "downloaded", "MODIFIED.txt"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    assert info.where(root).startswith(f"UNUSABLE: {file} has md5 {md5(file)}, not {published}")


def test_modified_data_are_declared_in_their_folder_and_named_in_records(small_cifar):
    info, root = DATASETS["cifar10"], small_cifar.parent
    public = read("cifar10", root)["cifar10"]
    assert public == {
        "digest": "md5:c58f30108f718f92721af3d95e74349a",
        "of": "the published archive, by the MD5 sums of its files",
    }
    flip_pixels(small_cifar / "data_batch_3")
    note = small_cifar / "MODIFIED.txt"
    note.write_bytes(b"\xef\xbb\xbfblack spots \r\nmore")
    info.check(root)
    mine = read("cifar10", root)["cifar10"]
    assert mine["modified"] == "black spots"
    assert mine["digest"].startswith("sha256:")
    assert info.where(root) == f"found in {small_cifar}, not as published: black spots"
    flip_pixels(small_cifar / "data_batch_1")
    assert read("cifar10", root)["cifar10"]["digest"] != mine["digest"]
    note.write_text(" \n")
    with pytest.raises(UserError, match=r"MODIFIED\.txt is empty"):
        info.check(root)


def test_the_public_sums_are_those_of_the_public_files(real_data):
    root = real_data("cifar-10-batches-py")
    assert read("cifar10", root)["cifar10"]["digest"] == f"md5:{cifar.CIFAR10.archive.md5}"


def test_digits_have_a_digest_of_their_arrays(tmp_path):
    found = read("digits", tmp_path)["digits"]
    assert found == read("digits", tmp_path)["digits"]
    assert len(found["digest"]) == len("sha256:") + 64
