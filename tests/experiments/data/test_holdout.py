"""The division into kept and held-out examples."""

import numpy as np
import pytest

from experiments.data.holdout import split_holdout

LABELS = np.random.default_rng(0).integers(0, 7, 1003)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1 / 3, 0.9])
def test_parts_are_disjoint_complete_and_of_the_right_size(fraction):
    kept, held = split_holdout(LABELS, fraction, seed=1)
    assert len(held) == round(fraction * len(LABELS))
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(LABELS)))


@pytest.mark.parametrize("fraction", [0.1, 1 / 3, 0.9])
def test_every_class_gives_its_share_up_to_one_example(fraction):
    _, held = split_holdout(LABELS, fraction, seed=1)
    shares = np.bincount(LABELS[held], minlength=7) - fraction * np.bincount(LABELS)
    assert np.abs(shares).max() < 1


def test_repeatable_and_a_matter_of_the_seed():
    first, again, other = (split_holdout(LABELS, 0.2, seed)[1] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_choice_is_random_within_a_class():
    _, held = split_holdout(np.zeros(1000, dtype=int), 0.5, seed=0)
    # Places of 500 of 1000, chosen at random: their mean has a standard deviation of 9.1.
    assert abs(held.mean() - 499.5) < 4 * 9.1
    assert len(np.unique(np.diff(held))) > 2


def test_same_choice_on_every_machine_and_version():
    _, held = split_holdout(np.arange(20) % 2, 0.3, seed=0)
    assert held.tolist() == [2, 3, 8, 11, 13, 18]


def test_impossible_fraction_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        split_holdout(LABELS, 1.0, seed=0)
