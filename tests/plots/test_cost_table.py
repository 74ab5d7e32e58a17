"""Costs beside the published ones: what stands where, and what stays empty."""

import math

import pandas as pd
import pytest

from plots.cost_table import beside, grid, write

COLUMNS = ["dataset", "model", "method", "metric", "value", "low", "high", "rounds"]
OURS = pd.DataFrame(
    [
        ("Digits", "Net", "A", "time", 12.345, 11.0, 13.0, 3),
        ("Digits", "Net", "A", "memory", 1234.5, 1234.5, 1234.5, 1),
        ("CIFAR", "Net", "A", "time", 0.5, 0.4, 0.6, 3),
    ],
    columns=COLUMNS,
)
PAPER = pd.DataFrame(
    [
        ("CIFAR", "Net", "A", "time", 0.38, "the paper"),
        ("CIFAR", "Net", "A", "memory", 1.7, "the paper"),
        ("Text", "GPT & Co", "B", "time", 15.0, "the paper"),
        ("Text", "GPT & Co", "C", "time", math.nan, "the paper, printed as a dash"),
    ],
    columns=["dataset", "model", "method", "metric", "value", "source"],
)
TITLES = {"time": "Time (ms)", "memory": "Memory"}


@pytest.fixture
def cells() -> pd.DataFrame:
    return grid(beside(OURS, PAPER), TITLES, published=("time", "memory"), ranges=("time",))


def test_ours_first_then_what_only_the_paper_has(cells):
    assert [tuple(row) for row in cells[["Data", "Network", "Method"]].values] == [
        ("Digits", "Net", "A"),
        ("CIFAR", "Net", "A"),
        ("Text", "GPT & Co", "B"),  # without C, for which the paper has no number
    ]


def test_a_number_nobody_measured_is_an_empty_cell(cells):
    assert list(cells["Time (ms)"]) == ["12.3 (11 to 13)", "0.5 (0.4 to 0.6)", ""]
    assert list(cells["Time (ms), paper"]) == ["", "0.38", "15"]
    assert list(cells["Memory"]) == ["1234", "", ""]  # 1234.5 to the even number
    assert list(cells["Memory, paper"]) == ["", "1.7", ""]


def test_numbers_keep_all_digits_and_their_source():
    numbers = beside(OURS, PAPER)
    assert numbers["value"].dropna().tolist() == OURS["value"].tolist()
    row = numbers[(numbers["dataset"] == "CIFAR") & (numbers["metric"] == "time")].iloc[0]
    assert (row["value"], row["paper_value"], row["paper_source"]) == (0.5, 0.38, "the paper")


def test_files_hold_all_grids_and_the_legend(cells, tmp_path):
    paths = write(tmp_path / "table", [cells, cells], beside(OURS, PAPER), "What & how.", "Legend_1.")
    text = {path.suffix: path.read_text() for path in paths}
    assert set(text) == {".md", ".tex", ".csv"}
    assert text[".md"].startswith("What & how.\n\n| Data")
    assert text[".md"].count("12.3 (11 to 13)") == 2
    assert text[".md"].endswith("Legend_1.\n")
    assert text[".tex"].count(r"\begin{tabular}{lllrrrr}") == 2
    assert r"What \& how. Legend\_1." in text[".tex"] and r"GPT \& Co" in text[".tex"]
    assert len(pd.read_csv(tmp_path / "table.csv")) == 5
