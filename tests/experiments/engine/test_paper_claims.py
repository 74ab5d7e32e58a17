"""Verdicts on the paper's claims, from made-up numbers."""

import pandas as pd
import pytest
from scipy import stats

from experiments.engine.claims import Claim, judge

HIGHER = Claim(method="IVON", peer="SGD", metric="top1_acc")
LOWER = Claim(method="IVON", peer="SGD", metric="nll")


def frame(
    ours: list[float], peers: list[float], metric: str = "top1_acc", model: str = "ResNet"
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"dataset": "D", "model": model, "method": method, "metric": metric, "value": value, "seed": seed}
            for method, values in (("IVON", ours), ("SGD", peers))
            for seed, value in enumerate(values)
        ],
        columns=["dataset", "model", "method", "metric", "value", "seed"],
    )


def verdict(claim: Claim, data: pd.DataFrame) -> str:
    (row,) = judge(claim, data)
    return row["verdict"]


GOOD, BAD, WIDE = [80.0, 80.2, 80.4], [70.0, 70.1, 70.3], [50.0, 80.0, 95.0]


def test_higher_is_better():
    assert verdict(HIGHER, frame(GOOD, BAD)) == "holds"
    assert verdict(HIGHER, frame(BAD, GOOD)) == "does not hold"
    assert verdict(HIGHER, frame(GOOD, WIDE)) == "not enough evidence"


def test_lower_is_better():
    assert verdict(LOWER, frame([0.1, 0.11], [0.5, 0.51], "nll")) == "holds"
    assert verdict(LOWER, frame([0.5, 0.51], [0.1, 0.11], "nll")) == "does not hold"


@pytest.mark.parametrize("ours", [[], [99.0]])
def test_one_seed_is_no_evidence(ours):
    assert verdict(HIGHER, frame(ours, BAD)) == "not enough evidence"


def test_interval_is_welchs_and_signed_for_the_claim():
    (row,) = judge(HIGHER, frame(GOOD, BAD))
    a, b = pd.Series(GOOD), pd.Series(BAD)
    va, vb = a.var() / 3, b.var() / 3
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    half = stats.t.ppf(0.975, freedom) * (va + vb) ** 0.5
    difference = a.mean() - b.mean()
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (difference, difference - half, difference + half)
    )
    assert row["seeds"] == "3/3"
    (lower,) = judge(LOWER, frame(GOOD, BAD, "nll"))
    assert lower["difference"] == pytest.approx(-difference)


def test_a_row_for_every_data_set_and_network():
    data = pd.concat([frame(GOOD, BAD, model="A"), frame(BAD, GOOD, model="B"), frame(GOOD, BAD, "nll", "C")])
    rows = judge(HIGHER, data)
    assert [(row["model"], row["verdict"]) for row in rows] == [("A", "holds"), ("B", "does not hold")]
    assert judge(HIGHER, data[data.model == "none"]) == []


def test_statement_says_which_way_is_better():
    assert HIGHER.statement.startswith("IVON has higher ")
    assert LOWER.statement.startswith("IVON has lower ")
    assert LOWER.statement.endswith(" than SGD")
