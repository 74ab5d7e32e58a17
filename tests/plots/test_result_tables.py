import io
import re
from dataclasses import dataclass

import pandas as pd
import pytest

from plots.comparison import compare
from plots.files import replace_file
from plots.tables import make_table, write_table

PAPER_COLUMNS = ["dataset", "model", "method", "metric", "value", "std", "unit", "n_seeds", "source"]
OUR_COLUMNS = ["dataset", "model", "method", "metric", "seed", "value"]


@dataclass(frozen=True)
class Described:
    title: str
    unit: str
    higher_is_better: bool
    digits: int


METRICS = {"acc": Described("Acc.", "percent", True, 2), "nll": Described("NLL", "nats", False, 3)}


def ours(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame([("Digits", "Net", *row) for row in rows], columns=OUR_COLUMNS)


def paper(*rows: tuple, dataset: str = "Digits", model: str = "Net") -> pd.DataFrame:
    full = [
        (dataset, model, method, metric, value, std, "", n, "there") for method, metric, value, std, n in rows
    ]
    return pd.DataFrame(full, columns=PAPER_COLUMNS)


RUNS = ours(
    ("SGD", "acc", 0, 90.0),
    ("SGD", "acc", 1, 92.0),
    ("SGD", "acc", 2, 94.0),
    ("SGD", "nll", 0, 0.5),
    ("IVON", "acc", 0, 93.0),
    ("IVON", "nll", 0, 0.4),
)


def cells(table, method: str) -> dict[str, str]:
    rows = table.cells[table.cells["Method"] == method]
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


def emphasis(table, method: str) -> dict[str, str]:
    return table.emphasis[table.cells["Method"] == method].iloc[0].to_dict()


def test_mean_and_spread_equal_a_hand_computation():
    table = make_table(RUNS, paper(), METRICS)
    # (90 + 92 + 94) / 3 = 92; sqrt((4 + 0 + 4) / 2) = 2. NLL has one of the three seeds, so no spread.
    assert cells(table, "SGD") == {
        "Method": "SGD",
        "n": "3",
        "Acc. (%) ↑": "92.00 ± 2.00",
        "NLL (nats) ↓": "0.500 (n=1)",
    }
    assert cells(table, "IVON")["Acc. (%) ↑"] == "93.00"


def test_published_number_stands_below_ours_where_the_pair_is_the_same():
    published = paper(("SGD", "acc", 91.5, 0.25, 5), ("SGD", "nll", 0.45, 0.0, 1))
    table = make_table(RUNS, published, METRICS)
    methods = list(table.cells["Method"])
    assert methods == ["Digits, Net", "SGD", "SGD, paper", "IVON"]
    assert cells(table, "SGD, paper")["Acc. (%) ↑"] == "91.50 ± 0.25"
    assert cells(table, "SGD, paper")["NLL (nats) ↓"] == "0.450"  # one run has no spread
    assert set(emphasis(table, "SGD, paper").values()) == {"italic"}


def test_published_block_of_another_pair_comes_last_under_its_own_heading():
    published = paper(("SGD", "acc", 76.6, 0.4, 5), dataset="ImageNet", model="ResNet-50")
    table = make_table(RUNS, published, METRICS)
    assert list(table.cells["Method"])[-2:] == ["ImageNet, ResNet-50: paper (published)", "SGD"]
    assert table.emphasis["Method"].iloc[-2] == "heading"


def test_missing_run_is_an_empty_cell():
    table = make_table(RUNS, paper(), METRICS, pairs=[("Digits", "Net"), ("Digits", "Big")], methods=["VOGN"])
    for row in table.cells[table.cells["Method"] == "VOGN"].itertuples(index=False):
        assert row[1:] == ("", "", "")
    assert list(table.cells["Method"]).count("VOGN") == 2
    without_nll = make_table(RUNS[RUNS["metric"] == "acc"], paper(), METRICS)
    assert set(without_nll.cells["NLL (nats) ↓"]) == {""}


def test_method_of_one_block_has_no_row_in_others():
    """Its row is there before it is measured, and in another block as soon as it has a number."""
    rows = [("Digits", "Net", "SGD"), ("Digits", "Net", "VOGN"), ("Digits", "Big", "SGD")]
    pairs = [("Digits", "Net"), ("Digits", "Big")]

    def blocks(runs: pd.DataFrame) -> list[str]:
        table = make_table(runs, paper(), METRICS, pairs=pairs, methods=["SGD", "VOGN"], rows=rows)
        return list(table.cells["Method"])

    assert blocks(RUNS) == ["Digits, Net", "SGD", "VOGN", "IVON", "Digits, Big", "SGD"]
    more = pd.concat([RUNS, ours(("VOGN", "acc", 0, 80.0)).assign(model="Big")])
    assert blocks(more) == ["Digits, Net", "SGD", "VOGN", "IVON", "Digits, Big", "SGD", "VOGN"]


def test_value_that_is_not_a_number_counts_as_missing():
    runs = ours(("SGD", "acc", 0, 90.0), ("SGD", "acc", 1, float("nan")), ("SGD", "nll", 0, float("nan")))
    row = cells(make_table(runs, paper(), METRICS), "SGD")
    assert (row["n"], row["Acc. (%) ↑"], row["NLL (nats) ↓"]) == ("1", "90.00", "")


def test_table_without_any_run_shows_the_paper_alone():
    table = make_table(ours(), paper(("SGD", "acc", 91.5, 0.25, 5)), METRICS)
    assert list(table.cells["Method"]) == ["Digits, Net: paper (published)", "SGD"]


def test_published_values_that_were_not_recovered_are_named_not_printed():
    published = paper(("SGD", "acc", 91.5, 0.2, 5), ("IVON", "acc", None, None, 5))
    table = make_table(RUNS, published, METRICS)
    assert "IVON, paper" not in set(table.cells["Method"])
    assert table.note == "Published values not recovered for: Digits, Net (IVON)."


def test_runs_behind_a_value_that_was_not_recovered_do_not_count():
    published = paper(("SGD", "acc", None, None, 5), ("SGD", "nll", 0.5, None, None))
    assert cells(make_table(RUNS, published, METRICS), "SGD, paper")["n"] == ""


def test_best_of_ours_is_bold_and_ties_within_the_printed_digits_are_all_bold():
    runs = ours(
        ("A", "acc", 0, 90.004),
        ("B", "acc", 0, 89.996),
        ("C", "acc", 0, 89.99),
        ("A", "nll", 0, 0.4),
        ("B", "nll", 0, 0.1),
    )
    table = make_table(runs, paper(("C", "acc", 99.0, 0.1, 5)), METRICS)
    bold = {method: emphasis(table, method) for method in "ABC"}
    assert [bold[method]["Acc. (%) ↑"] for method in "ABC"] == ["bold", "bold", ""]
    assert [bold[method]["NLL (nats) ↓"] for method in "ABC"] == ["", "bold", ""]
    assert emphasis(table, "C, paper")["Acc. (%) ↑"] == "italic"


def test_a_single_method_is_not_the_best():
    table = make_table(RUNS[RUNS["method"] == "SGD"], paper(), METRICS)
    assert "bold" not in set(table.emphasis.to_numpy().ravel())


def test_same_seed_twice_is_refused():
    with pytest.raises(ValueError, match="two values for one seed"):
        make_table(ours(("SGD", "acc", 0, 90.0), ("SGD", "acc", 0, 91.0)), paper(), METRICS)


def test_markdown_marks_bold_and_italics_and_keeps_columns_apart(tmp_path):
    runs = ours(("A|B*", "acc", 0, 90.0), ("C", "acc", 0, 91.0))
    table = make_table(runs, paper(("C", "acc", 92.0, None, 5)), METRICS)
    text = write_table(tmp_path / "t", table, "Caption.")[0].read_text()
    assert text.startswith("Caption.\n")
    grid = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in grid} == {5}
    assert r"A\|B\*" in text
    assert "**91.00**" in text
    assert "*92.00*" in text
    assert "**Digits, Net**" in text


def test_latex_is_balanced_and_escaped(tmp_path):
    runs = ours(("A_1 & B", "acc", 0, 90.0), ("A_1 & B", "acc", 1, 91.0), ("C", "acc", 0, 91.0))
    table = make_table(runs, paper(), METRICS)
    text = write_table(tmp_path / "t", table, "50 % of {Digits} #1")[1].read_text()
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "adjustbox", "tabular"]
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "adjustbox", "table"]
    assert r"50 \% of \{Digits\} \#1" in text
    assert r"A\_1 \& B" in text
    body = text.partition("\n")[2]  # the first line is a comment
    assert not re.search(r"(?<!\\)%", body)
    assert body.isascii()
    unescaped = re.sub(r"\\[{}]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"90.50$_{\pm 0.71}$" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1


def test_latex_numbers_tables_by_itself(tmp_path):
    text = write_table(tmp_path / "t", make_table(RUNS, paper(), METRICS), "Table 12: all of it.")[
        1
    ].read_text()
    assert r"\caption{all of it. " in text


def test_csv_holds_the_unrounded_numbers(tmp_path):
    runs = ours(("SGD", "acc", 0, 1 / 3), ("SGD", "acc", 1, 2 / 3))
    published = paper(("SGD", "acc", 91.5, 0.25, 5))
    path = write_table(tmp_path / "t", make_table(runs, published, METRICS), "")[2]
    pd.testing.assert_frame_equal(pd.read_csv(path), compare(runs, published, METRICS), check_exact=True)
    assert pd.read_csv(path)["mean"].item() == runs["value"].mean()


def test_same_numbers_give_the_same_bytes_whatever_the_order_of_the_runs(tmp_path):
    published = paper(("SGD", "acc", 91.5, 0.25, 5))
    shuffled = pd.concat([RUNS[RUNS["method"] == "IVON"], RUNS[RUNS["method"] == "SGD"]])
    first = write_table(tmp_path / "a" / "t", make_table(RUNS, published, METRICS), "Caption.")
    second = write_table(tmp_path / "b" / "t", make_table(RUNS.copy(), published, METRICS), "Caption.")
    third = write_table(
        tmp_path / "c" / "t", make_table(shuffled, published, METRICS, methods=["SGD", "IVON"]), "Caption."
    )
    for one, two, three in zip(first, second, third, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = replace_file(tmp_path / "t.csv", b"old")

    def disk_full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", disk_full)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_csv_text_can_be_read_back_by_pandas_without_loss():
    text = make_table(RUNS, paper(), METRICS).numbers.to_csv(index=False)
    again = pd.read_csv(io.StringIO(text))
    assert again["mean"].tolist() == [92.0, 0.5, 93.0, 0.4]
