"""What a table says when our numbers are not the published ones."""

import pandas as pd
import pytest

from experiments.image_classification.departures import departures
from experiments.metrics import METRICS

CELL = {"dataset": "CIFAR-10", "model": "ResNet-20", "method": "IVON"}
UNKNOWN = float("nan")


def frames(ours: list[float], published: float, std: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    seeds = [{**CELL, "metric": "nll", "seed": seed, "value": value} for seed, value in enumerate(ours)]
    row = {**CELL, "metric": "nll", "value": published, "std": std, "n_seeds": 5, "source": "somewhere"}
    return pd.DataFrame(seeds), pd.DataFrame([row])


@pytest.mark.parametrize(
    ("published", "std", "said"),
    [
        (0.24, 0.02, False),  # ours are 0.2 with a deviation of 0.02; that of the difference is 0.028
        (0.26, 0.02, True),
        (0.14, 0.02, True),
        (0.239, UNKNOWN, False),
        (0.241, UNKNOWN, True),
    ],
)
def test_more_than_two_deviations_are_said(published, std, said):
    text = departures("table10", "paper", *frames([0.18, 0.2, 0.22], published, std), METRICS)
    assert bool(text) == said
    if said:
        assert "IVON on CIFAR-10, ResNet-20" in text
        assert f"published {published:.3f}" in text
        assert "TinyImageNet's effective sample size" in text  # what is known of this table


def test_other_scales_are_other_experiments():
    assert departures("table2", "small", *frames([0.9, 0.91], 0.2, 0.001), METRICS) == ""


def test_nothing_can_be_said_without_a_deviation():
    assert departures("table2", "paper", *frames([0.9], 0.2, UNKNOWN), METRICS) == ""


@pytest.mark.parametrize("table", ["table1", "table10"])
def test_the_learning_rate_that_is_not_known_is_said(table):
    text = departures(table, "paper", *frames([0.18, 0.2, 0.22], 0.9, 0.02), METRICS)
    assert "for AdamW the paper ran PreResNet-110 on TinyImageNet again, with another learning rate" in text
    assert "that rate is not known, and ours is 0.0005" in text
