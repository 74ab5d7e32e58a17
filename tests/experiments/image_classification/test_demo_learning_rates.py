"""The demo's learning rates are what the published tuning runs say, with the same budget for each method."""

from collections import Counter

import pytest

from experiments.commands import RESULTS
from experiments.engine.record import Store
from experiments.image_classification.grid import DEMO_LR, SEEDS
from experiments.image_classification.tuning import METHODS, TUNING, learning_rates, trials_frame, winners


@pytest.fixture(scope="module")
def trials():
    return trials_frame(Store(RESULTS / "reference"))


def test_every_trial_is_published(trials):
    assert Counter(trials.method) == dict.fromkeys(METHODS, 12)  # six rates, two seeds


def test_the_demo_takes_the_winners(trials):
    assert winners(trials) == DEMO_LR


def test_no_winner_lies_at_the_edge_of_its_range(trials):
    """Otherwise a better rate may lie outside, and the comparison would favour whoever was searched well."""
    for method, lr in winners(trials).items():
        assert learning_rates(method)[0] < lr < learning_rates(method)[-1], method


def test_trials_see_neither_the_test_set_nor_the_seeds_of_the_table():
    for spec in TUNING.specs("demo"):
        train = spec.trainings[0]
        assert train.evaluated_split == "held"
        assert train.seed not in SEEDS["demo"]
