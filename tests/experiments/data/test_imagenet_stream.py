"""ImageNet's listing and stream, on a tiny layout made from two real photographs."""

import os
from functools import partial

import numpy as np
import pytest
import torch

from experiments.data import DATASETS, open_split
from experiments.data.imagenet.files import list_images
from experiments.data.imagenet.stream import StreamedImages
from experiments.errors import RunError, UserError

SIDE, COUNT, BATCH = 32, 83, 40  # a share of 40 images is two pieces for the workers


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet") / "train"
    rng = np.random.default_rng(0)
    for place in range(COUNT):
        file = folder / f"n{place % 3:08d}" / f"n{place % 3:08d}_{place}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        left, top = rng.integers(0, 300), rng.integers(0, 200)
        w, h = rng.integers(60, 300), rng.integers(60, 200)
        photos[place % 2].crop((left, top, left + w, top + h)).save(file, "JPEG")
    return folder


def stream(folder, *, augment=True, workers=0) -> StreamedImages:
    info = DATASETS["imagenet"]
    return StreamedImages(
        list_images(folder),
        device="cpu",
        mean=info.mean,
        std=info.std,
        side=SIDE,
        augment=augment,
        workers=workers,
    )


def drawn(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def alone(folder) -> StreamedImages:
    return stream(folder)


@pytest.fixture(scope="module")
def first_epoch(alone):
    return list(alone.epoch(1, 0, BATCH))


def test_workers_do_not_change_a_bit_also_after_an_epoch_was_left(folder, alone, first_epoch):
    helped = stream(folder, workers=2)
    before = torch.get_rng_state()
    next(helped.epoch(1, 1, BATCH))  # left with work still under way
    assert_same(drawn(helped.epoch(1, 0, BATCH)), drawn(first_epoch))
    assert_same(drawn(helped.epoch(1, 2, BATCH)), drawn(alone.epoch(1, 2, BATCH)))
    assert_same(drawn(helped.batches(BATCH)), drawn(alone.batches(BATCH)))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"


def test_form_of_a_batch(first_epoch):
    assert len(first_epoch) == COUNT // BATCH
    images, labels = first_epoch[0]
    assert images.shape == (BATCH, 3, SIDE, SIDE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_epoch_is_a_function_of_seed_and_epoch(folder, alone, first_epoch):
    assert_same(drawn(stream(folder).epoch(1, 0, BATCH)), drawn(first_epoch))
    for seed, epoch in ((1, 1), (2, 0), (0, 1)):
        assert not torch.equal(drawn(alone.epoch(seed, epoch, BATCH))[0], drawn(first_epoch)[0])


def test_resumed_epoch_and_shares(alone, first_epoch):
    assert_same(drawn(alone.epoch(1, 0, BATCH, start=1)), drawn(first_epoch[1:]))
    shares = [list(alone.epoch(1, 0, BATCH, rank=rank, world=2)) for rank in (0, 1)]
    for whole, *parts in zip(first_epoch, *shares, strict=True):
        assert {len(labels) for _, labels in parts} == {BATCH // 2}
        assert_same(drawn(parts), whole)


def test_evaluation_sees_every_image_once_in_order_and_unaugmented(folder, alone):
    _, labels = drawn(alone.batches(BATCH))
    assert labels.tolist() == sorted(labels.tolist())
    assert len(labels) == COUNT
    shares = [drawn(alone.batches(BATCH, rank=rank, world=2))[1] for rank in (0, 1)]
    assert sum(len(share) for share in shares) == COUNT
    fixed = stream(folder, augment=False)
    centres = {image.numpy().tobytes() for image in drawn(alone.batches(BATCH))[0]}
    shuffled = {image.numpy().tobytes() for image in drawn(fixed.epoch(0, 0, COUNT))[0]}
    assert centres == shuffled


def test_half_of_the_images_are_mirrored(photos, tmp_path):
    """A picture dark on the left tells whether it was mirrored; 300 draws, five standard deviations."""
    from PIL import Image

    ramp = np.repeat(np.linspace(0, 255, 80, dtype=np.uint8)[None, :], 80, axis=0)
    (tmp_path / "train" / "n1").mkdir(parents=True)
    for place in range(100):
        Image.fromarray(ramp).save(tmp_path / "train" / "n1" / f"{place}.JPEG", "JPEG")
    images, _ = drawn(batch for epoch in range(3) for batch in stream(tmp_path / "train").epoch(0, epoch, 50))
    mirrored = images[:, 0, :, : SIDE // 2].mean((1, 2)) > images[:, 0, :, SIDE // 2 :].mean((1, 2))
    assert abs(mirrored.sum() - 150) < 5 * (300 / 4) ** 0.5


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_file_is_named_in_one_line(photos, tmp_path, workers):
    (tmp_path / "train" / "n1").mkdir(parents=True)
    photos[0].save(tmp_path / "train" / "n1" / "good.JPEG")
    (tmp_path / "train" / "n1" / "bad.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(RunError, match=r"n1/bad\.JPEG") as caught:
        list(stream(tmp_path / "train", workers=workers).epoch(0, 0, 2))
    assert "\n" not in str(caught.value)


def test_two_iterations_at_once_are_refused(alone):
    older = alone.batches(20)
    next(older)
    next(alone.batches(20))
    with pytest.raises(RuntimeError, match="another iteration"):
        next(older)


def test_listing_is_kept_and_follows_the_folder(photos, tmp_path):
    folder = tmp_path / "train"
    for name in ("n2/b.JPEG", "n2/a.jpeg", "n1/c.JPEG", "n1/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    listing = list_images(folder)
    assert listing.names.tolist() == [b"n1/c.JPEG", b"n2/a.jpeg", b"n2/b.JPEG"]
    assert listing.labels.tolist() == [0, 1, 1]

    kept = tmp_path / "train.listing.npz"
    with np.load(kept) as content:
        altered = dict(content) | {"names": np.array([b"x", b"y", b"z"])}
    np.savez(kept, **altered)
    assert list_images(folder).names.tolist() == [b"x", b"y", b"z"], "the kept listing was not used"

    (folder / "n1" / "d.JPEG").touch()
    os.utime(folder / "n1", ns=(1, 1))  # clocks of file systems are coarse
    assert list_images(folder).names.tolist() == [b"n1/c.JPEG", b"n1/d.JPEG", b"n2/a.jpeg", b"n2/b.JPEG"]
    whole = kept.read_bytes()
    for damaged in (b"", whole[:50], whole[:-30]):
        kept.write_bytes(damaged)
        assert len(list_images(folder).names) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.listing.npz"]


@pytest.fixture
def thousand(tmp_path):
    """1,000 classes of one empty file in each split."""
    for split in ("train", "val"):
        for k in range(1000):
            folder = tmp_path / "imagenet" / split / f"n{k:08d}"
            folder.mkdir(parents=True)
            (folder / f"{split}_{k}.JPEG").touch()
    return tmp_path


def test_what_is_missing_is_explained(tmp_path):
    with pytest.raises(UserError, match="0 class folders, not 1000") as caught:
        DATASETS["imagenet"].check(tmp_path)
    for part in (str(tmp_path / "imagenet" / "train"), "terms", "$IVON_DATA", "<wnid>/*.JPEG"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_have_the_same_classes_by_name(thousand):
    """With labels by sorted place, one folder of another name would shift those of all that follow it."""
    DATASETS["imagenet"].check(thousand)
    train, val = thousand / "imagenet" / "train", thousand / "imagenet" / "val"
    (val / "n00000012").rename(val / "tench")
    for ask in (DATASETS["imagenet"].check, partial(open_split, "imagenet", "test", device="cpu")):
        with pytest.raises(
            UserError,
            match=rf"{val} lacks the class n00000012, which {train} has; {val} has the class tench, which",
        ) as caught:
            ask(root=thousand)
        assert "\n" not in str(caught.value)
    assert DATASETS["imagenet"].where(thousand).startswith("UNUSABLE: ")
    (val / "tench").rename(val / "n00000012")
    (val / "stray").mkdir()
    with pytest.raises(UserError, match=r"val has 1001 class folders, not 1000"):
        DATASETS["imagenet"].check(thousand)


def test_an_empty_class_and_a_misplaced_image_are_refused(thousand):
    train = thousand / "imagenet" / "train"
    with pytest.raises(UserError, match="holds 1000 images, not 50000"):
        open_split("imagenet", "test", device="cpu", root=thousand)
    image = train / "n00000007" / "train_7.JPEG"
    image.rename(train / "n00000007" / "n00000008_7.JPEG")
    with pytest.raises(
        UserError, match=r"n00000008_7\.JPEG is by its name of the class n00000008, not of n0"
    ):
        open_split("imagenet", "train", device="cpu", root=thousand)
    (train / "n00000007" / "n00000008_7.JPEG").unlink()
    with pytest.raises(UserError, match=rf"{train} has no image of the class n00000007"):
        DATASETS["imagenet"].check(thousand)
    with pytest.raises(UserError, match=rf"{train} has no image of the class n00000007"):
        list_images(train)


def test_a_listing_tells_names_and_sizes_and_is_kept_elsewhere_if_need_be(photos, tmp_path, monkeypatch):
    folder, cache = tmp_path / "train", tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (folder / "n1").mkdir(parents=True)
    (folder / "n1" / "a.JPEG").write_bytes(b"abc")
    (tmp_path / "train.listing.npz").mkdir()  # in the way, as on a read-only disk
    first = list_images(folder)
    (kept,) = cache.rglob("train.listing.npz")
    (folder / "n1" / "a.JPEG").write_bytes(b"abcd")  # which its folder does not show
    assert list_images(folder).digest == first.digest, "the kept listing was not used"
    kept.unlink()
    assert list_images(folder).digest != first.digest
