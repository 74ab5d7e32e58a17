"""Batches of images in memory: order, augmentation, normalisation, shares."""

import numpy as np
import pytest
import torch

from experiments.data.batches import DeviceImages

COUNT, HEIGHT, WIDTH, PADDING, BATCH = 203, 7, 6, 2, 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = np.random.default_rng(0).integers(1, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = np.arange(COUNT)  # a label names its image


def source(**changes) -> DeviceImages:
    settings = {"mean": MEAN, "std": STD, "crop_padding": PADDING, "flip": True} | changes
    return DeviceImages(IMAGES, LABELS, device="cpu", **settings)


def drawn(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """Undo the normalisation: uint8 (N, H, W, C)."""
    return ((images.permute(0, 2, 3, 1).double().numpy() * STD + MEAN) * 255).round().astype(np.uint8)


def assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_epoch_is_a_function_of_seed_and_epoch_alone():
    first = drawn(source().epoch(5, 2, BATCH))
    torch.manual_seed(99)
    np.random.default_rng(99).random()
    before = torch.get_rng_state()
    assert_same(drawn(source().epoch(5, 2, BATCH)), first)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    for seed, epoch in ((5, 3), (6, 2), (2, 5)):
        assert not torch.equal(drawn(source().epoch(seed, epoch, BATCH))[1], first[1])


@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_epoch_resumed_at_a_batch_equals_the_rest_of_the_whole_one(start):
    data = source()
    whole = list(data.epoch(1, 4, BATCH))
    rest = list(data.epoch(1, 4, BATCH, start=start))
    assert len(rest) == len(whole) - start
    for one, other in zip(whole[start:], rest, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_all_devices_make_the_global_batch(world):
    ranks = [source().epoch(0, 0, BATCH, rank=rank, world=world) for rank in range(world)]
    for whole, *shares in zip(source().epoch(0, 0, BATCH), *ranks, strict=True):
        assert {len(labels) for _, labels in shares} == {BATCH // world}
        assert_same(drawn(shares), whole)


def test_every_image_at_most_once_and_only_whole_batches():
    data = source()
    _, labels = drawn(data.epoch(3, 0, BATCH))
    assert len(labels) == data.steps(BATCH) * BATCH == 200
    assert len(labels.unique()) == 200
    _, labels = drawn(data.epoch(3, 0, 29))  # 29 divides 203
    assert torch.equal(labels.sort().values, torch.arange(COUNT))


def test_crops_are_windows_of_the_padded_image_mirrored_or_not():
    """Against cropping each image alone in numpy: every output is one of the possible windows."""
    images, labels = drawn(source().epoch(0, 0, BATCH))
    found = np.zeros((2, 2 * PADDING + 1, 2 * PADDING + 1), dtype=int)
    for image, label in zip(to_bytes(images), labels, strict=True):
        padded = np.pad(IMAGES[label], ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
        matches = [
            (mirrored, top, left)
            for mirrored in (0, 1)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            if np.array_equal(image[:, :: 1 - 2 * mirrored], padded[top : top + HEIGHT, left : left + WIDTH])
        ]
        assert len(matches) == 1, "no window of this image, or several"
        found[matches[0]] += 1
    assert (found.sum(axis=0) > 0).all(), "a window that never occurs among 200 (8 expected of each)"


def test_half_of_the_images_are_mirrored_and_corners_are_uniform():
    """Labels as pixels tell what was drawn: 4000 images, five standard deviations allowed."""
    count = 4000
    ramp = np.broadcast_to(np.arange(1, 4, dtype=np.uint8).reshape(1, 1, 3, 1), (count, 3, 3, 1))
    data = DeviceImages(
        ramp, np.zeros(count), device="cpu", mean=(0.0,), std=(1 / 255,), crop_padding=1, flip=True
    )
    images, _ = drawn(data.epoch(0, 0, count))
    middle = images[:, 0, 1].round().int()  # one row: 1 2 3 shifted by -1, 0 or 1, or mirrored
    rows, counts = middle.unique(dim=0, return_counts=True)
    assert len(rows) == 6
    assert (counts - count / 6).abs().max() < 5 * (count / 6 * 5 / 6) ** 0.5
    mirrored = sum(n for row, n in zip(rows.tolist(), counts.tolist(), strict=True) if row[0] > row[1] > 0)
    mirrored += sum(n for row, n in zip(rows.tolist(), counts.tolist(), strict=True) if row == [0, 3, 2])
    assert abs(mirrored - count / 2) < 5 * (count / 4) ** 0.5


def test_without_augmentation_an_epoch_only_shuffles():
    images, labels = drawn(source(crop_padding=0, flip=False).epoch(0, 0, BATCH))
    assert np.array_equal(to_bytes(images), IMAGES[labels])


def test_normalisation():
    images, _ = drawn(source().batches(BATCH))
    expected = (IMAGES / 255.0 - np.array(MEAN)) / np.array(STD)
    # Values reach 2.6; 255 * mean and the difference are rounded to 24 bits before the division by 255 * std.
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).double().numpy(), expected, rtol=0, atol=1e-6)
    assert images.dtype == torch.float32


def test_layout_suits_convolutions():
    images, labels = next(source().epoch(0, 0, BATCH))
    assert images.shape == (BATCH, 3, HEIGHT, WIDTH)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_sees_every_image_once_in_order(world):
    data = source()
    per_rank = [list(data.batches(BATCH, rank=rank, world=world)) for rank in range(world)]
    images, labels = drawn(batch for batches in per_rank for batch in batches)
    assert torch.equal(labels.sort().values, torch.arange(COUNT))
    assert np.array_equal(to_bytes(images), IMAGES[labels])
    if world == 1:
        assert torch.equal(labels, torch.arange(COUNT))
        assert len(per_rank[0][-1][1]) == COUNT % BATCH


def test_impossible_batches_are_refused_at_once():
    with pytest.raises(ValueError, match="cannot share a batch of 20"):
        source().epoch(0, 0, BATCH, world=3)
    with pytest.raises(ValueError, match="rank 2"):
        source().batches(BATCH, rank=2, world=2)
    with pytest.raises(ValueError, match="cannot be drawn from 203"):
        source().epoch(0, 0, 204)
