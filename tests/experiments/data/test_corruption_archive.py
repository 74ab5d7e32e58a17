"""Corrupted test sets, ready for batches: the published arrays if they are there, else our own."""

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.data import DATASETS, ArraySplits, open_split
from experiments.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptedImages,
    archive,
    corrupt,
    corrupted_source,
    open_corrupted,
    source,
)
from experiments.data.provenance import noted
from experiments.data.readers.cifar import CIFAR10, CIFAR100, load
from experiments.data.readers.safe_pickle import read_pickled_arrays
from experiments.errors import UserError

# The clean images that made ones are made of.
FEW = ArraySplits(
    train_images=np.zeros((1, 32, 32, 3), dtype=np.uint8),
    train_labels=np.zeros(1, dtype=np.int64),
    test_images=np.full((4, 32, 32, 3), 100, dtype=np.uint8),
    test_labels=np.arange(4),
)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder in the layout of the archive, with 3 images per severity, declared not to be the archive."""
    monkeypatch.setattr(archive, "PER_SEVERITY", 3)
    monkeypatch.setattr(archive, "SHAPE", (15, 32, 32, 3))
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    (folder / "MODIFIED.txt").write_text("three images of noise")
    images = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.tile(np.array([7, 0, 9], dtype=np.uint8), 5))
    return images


def test_published_images_are_preferred(published, tmp_path):
    assert corrupted_source("cifar10", tmp_path) == "published"
    assert corrupted_source("digits", tmp_path) == "made"
    data = open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path)
    ((images, labels),) = data.batches(10)
    assert labels.tolist() == [7, 0, 9]
    info = DATASETS["cifar10"]
    pixels = images.permute(0, 2, 3, 1) * torch.tensor(info.std) + torch.tensor(info.mean)
    assert (255 * pixels).numpy() == pytest.approx(published[3:6], abs=1e-3)  # float32 near 255


def test_several_corruptions_follow_each_other_and_may_be_cut_short(published, tmp_path):
    np.save(tmp_path / "CIFAR-10-C" / "snow.npy", published[::-1])
    data = open_corrupted("cifar10", ["snow", "fog"], 2, device="cpu", first=2, root=tmp_path)
    ((images, labels),) = data.batches(10)
    assert labels.tolist() == [7, 0, 7, 0]
    parts = [
        next(iter(open_corrupted("cifar10", [name], 2, device="cpu", root=tmp_path).batches(10)))[0][:2]
        for name in ("snow", "fog")
    ]
    assert torch.equal(images, torch.cat(parts))
    made = open_corrupted("digits", ["fog", "frost"], 4, device="cpu", first=5, root=tmp_path)
    ((some, labels),) = made.batches(100)
    ((whole, of_whole),) = open_corrupted("digits", ["frost"], 4, device="cpu").batches(1000)
    assert torch.equal(some[5:], whole[:5])
    assert torch.equal(labels, of_whole[:5].repeat(2))


def test_plans_say_where_the_images_come_from(published, tmp_path):
    images = CorruptedImages(dataset="cifar10")
    assert images.title == "CIFAR-10-C"
    found = (
        f"found in {tmp_path / 'CIFAR-10-C'}, not as published: three images of noise; without brightness.npy"
    )
    assert images.where(tmp_path).startswith(found)
    elsewhere = images.where(tmp_path / "empty")
    assert "made from the published definitions" in elsewhere and "zenodo.org" in elsewhere
    images.check(tmp_path / "empty")  # nothing the user has to bring


def test_the_archive_or_made_images_can_be_asked_for(published, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], load=lambda _: FEW))
    archive_or_made = open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path)
    of_archive = open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path, origin="published")
    made = open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path, origin="made")
    assert torch.equal(of_archive.labels, archive_or_made.labels)
    assert made.labels.tolist() == FEW.test_labels.tolist()
    assert corrupted_source("cifar10", tmp_path, origin="made") == "made"
    with pytest.raises(UserError, match=r"CIFAR-10-C is not in .*empty.*labels\.npy.*zenodo\.org.*fig7_made"):
        open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path / "empty", origin="published")
    with pytest.raises(UserError, match=r"no snow\.npy"):
        CorruptedImages(dataset="cifar10", origin="published", corruptions=("fog", "snow")).check(tmp_path)
    with pytest.raises(UserError, match="of 'digits' is published"):
        open_corrupted("digits", ["fog"], 2, device="cpu", root=tmp_path, origin="published")


def test_incomplete_or_foreign_arrays_are_explained(published, tmp_path):
    with pytest.raises(UserError, match=r"snow\.npy .*zenodo\.org.* or move it away") as caught:
        open_corrupted("cifar10", ["snow"], 2, device="cpu", root=tmp_path)
    assert "\n" not in str(caught.value)
    np.save(tmp_path / "CIFAR-10-C" / "snow.npy", published[:10])
    with pytest.raises(UserError, match=r"must hold uint8 \(15, 32, 32, 3\), found uint8 \(10,"):
        open_corrupted("cifar10", ["snow"], 2, device="cpu", root=tmp_path)
    np.save(tmp_path / "CIFAR-10-C" / "snow.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot read"):
        open_corrupted("cifar10", ["snow"], 2, device="cpu", root=tmp_path)


def test_arrays_that_are_not_the_published_ones_are_refused_unless_declared(published, tmp_path, monkeypatch):
    folder = tmp_path / "CIFAR-10-C"
    notes = {}
    with noted(notes.__setitem__):
        open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path)
    assert notes["CIFAR-10-C"]["modified"] == "three images of noise"

    (folder / "MODIFIED.txt").unlink()
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("labels.npy", "fog.npy")}
    monkeypatch.setitem(source.MD5, "CIFAR-10-C", sums)
    with noted(notes.__setitem__):
        open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path)
    assert notes["CIFAR-10-C"]["digest"] == "md5:56bf5dcef84df0e2308c6dcbcbbd8499"

    np.save(folder / "fog.npy", published[::-1])
    images = CorruptedImages(dataset="cifar10")
    asked = (images.check, partial(open_corrupted, "cifar10", ["fog"], 2, device="cpu"))
    for ask in asked:
        with pytest.raises(UserError, match=r"fog\.npy has md5 \w+, not .*zenodo\.org.*MODIFIED\.txt") as no:
            ask(root=tmp_path)
        assert "\n" not in str(no.value)
    assert images.where(tmp_path).startswith(f"UNUSABLE: {folder / 'fog.npy'} has md5")
    (folder / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"cannot read .*labels\.npy"):
        images.check(tmp_path)


def test_labels_of_an_archive_are_classes(published, tmp_path):
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.full(15, 10, dtype=np.uint8))
    with pytest.raises(UserError, match=r"labels\.npy: labels must be 0\.\.9, found 10\.\.10"):
        open_corrupted("cifar10", ["fog"], 2, device="cpu", root=tmp_path)


@pytest.mark.parametrize(
    ("archive", "layout"), [("CIFAR-10-C", CIFAR10), ("CIFAR-100-C", CIFAR100)], ids=["10", "100"]
)
def test_the_public_sum_of_an_archives_labels_is_that_of_the_test_labels(archive, layout, real_data):
    """Five times over, as NumPy writes them: whoever reads other labels reads another set."""
    (file,) = layout.test_file
    folder = layout.archive.folder
    content = read_pickled_arrays(real_data(folder) / folder / file)
    written = io.BytesIO()
    np.save(written, np.tile(np.array(content[layout.labels_key], dtype=np.uint8), 5))
    assert hashlib.md5(written.getvalue()).hexdigest() == source.MD5[archive]["labels.npy"]


def test_digits_are_made_from_the_test_images_in_their_order(tmp_path):
    clean = open_split("digits", "test", device="cpu")
    faint = open_corrupted("digits", ["contrast"], 1, device="cpu", root=tmp_path)
    assert torch.equal(faint.labels, clean.labels)
    for (images, _), (fainter, _) in zip(clean.batches(200), faint.batches(200), strict=True):
        middle = images.mean(dim=(2, 3), keepdim=True)
        # Two cut-off fractions of a level, in units of the digits' standard deviation of 96 levels.
        assert fainter.numpy() == pytest.approx((middle + 0.75 * (images - middle)).numpy(), abs=2 / 96)


def test_importing_it_needs_neither_torch_nor_numpy():
    code = "import sys, experiments.data.corruptions; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow  # reads gigabytes
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "frost"])
def test_ours_change_as_much_as_the_published(name, data_root):
    """The distance from the clean images, by severity. Not for frost, whose photographs we do not have."""
    root = data_root("CIFAR-10-C", "cifar-10-batches-py")
    clean = load(root, CIFAR10).test_images[:2000]
    for severity in SEVERITIES:
        theirs, _ = archive.read_published(root / "CIFAR-10-C", name, severity)
        distances = [
            np.abs(images.astype(float) - clean).mean()
            for images in (corrupt(clean, name, severity), theirs[: len(clean)])
        ]
        # Draws for 2,000 images agree to a percent or two; libraries for JPEG and blurs differ a little.
        assert distances[0] == pytest.approx(distances[1], rel=0.1)
