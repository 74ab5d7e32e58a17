"""Tables of results: our mean and spread over seeds beside the paper's numbers, in Markdown, LaTeX and CSV.

Rows come in blocks, one per data set and network. In a block of ours a method has a row with our numbers and,
if the paper has the same block, a row in italics with the paper's. Blocks that only the paper has come last,
headed so.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Protocol

import pandas as pd

from plots.comparison import CELL, compare, pairs_of
from plots.files import csv_bytes, replace_file
from plots.table_formats import Table, to_latex, to_markdown

UNIT_SIGNS = {"percent": " (%)", "fraction": "", "score": ""}


class Described(Protocol):
    """What a table needs to know of a metric."""

    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def digits(self) -> int: ...


def make_table(
    ours: pd.DataFrame,
    paper: pd.DataFrame,
    metrics: Mapping[str, Described],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    methods: Sequence[str] = (),
    rows: Collection[tuple[str, str, str]] = (),
) -> Table:
    """Arrange our runs and the published numbers (columns: see `compare`) for these metrics.

    `pairs` and `methods` put these rows first, in this order, even when nothing has been measured for them
    yet: a missing run is an empty cell. Without them, rows are those of `ours`, methods in the order of the
    paper. Where not every block has every method, `rows` (data set, network, method) are those that it has
    even without numbers.
    """
    numbers = compare(ours, paper, metrics)
    our_pairs = list(dict.fromkeys([*pairs, *pairs_of(ours)]))
    our_methods = {*ours["method"].unique(), *methods}
    all_methods = list(dict.fromkeys([*methods, *paper["method"], *ours["method"].unique()]))
    recovered = numbers.dropna(subset="paper_value")
    published = set(zip(recovered["dataset"], recovered["model"], recovered["method"], strict=True))
    cell_of = numbers.set_index(CELL)
    there = {*rows, *zip(ours["dataset"], ours["model"], ours["method"], strict=True)}

    lines: list[tuple[list[str], list[str]]] = []
    for pair in our_pairs:
        lines.append(_heading(", ".join(pair), metrics))
        best = _best_of(cell_of, pair, metrics)
        for method in all_methods:
            if method in our_methods and (not rows or (*pair, method) in there):
                lines.append(_our_row(cell_of, (*pair, method), metrics, best))
            if (*pair, method) in published:
                lines.append(_paper_row(cell_of, (*pair, method), metrics, f"{method}, paper"))
    for pair in (pair for pair in pairs_of(paper) if pair not in our_pairs):
        present = [method for method in all_methods if (*pair, method) in published]
        if present:
            lines.append(_heading(f"{', '.join(pair)}: paper (published)", metrics))
            lines.extend(_paper_row(cell_of, (*pair, method), metrics, method) for method in present)

    columns = ["Method", "n", *(_column_title(metric) for metric in metrics.values())]
    return Table(
        numbers=_in_row_order(numbers, [*our_pairs, *pairs_of(paper)], all_methods, list(metrics)),
        cells=pd.DataFrame([cells for cells, _ in lines], columns=columns),
        emphasis=pd.DataFrame([emphasis for _, emphasis in lines], columns=columns),
        note=_note(paper[paper["metric"].isin(list(metrics))], published),
    )


def write_table(stem: Path, table: Table, caption: str) -> list[Path]:
    """Write `stem`.md and .tex, for reading, and .csv with unrounded numbers and sources."""
    texts = {
        "md": to_markdown(table, caption),
        "tex": to_latex(table, caption, label=f"tab:{Path(stem).name}"),
    }
    paths = [replace_file(Path(f"{stem}.{kind}"), text.encode()) for kind, text in texts.items()]
    return [*paths, replace_file(Path(f"{stem}.csv"), csv_bytes(table.numbers))]


def write_plain(stem: Path, frame: pd.DataFrame, caption: str) -> list[Path]:
    """Write a frame as it is, a row a line: `stem`.md for reading, `stem`.csv with unrounded numbers."""
    text = f"{caption}\n\n{frame.to_markdown(index=False, floatfmt='.4g')}\n"
    return [
        replace_file(Path(f"{stem}.md"), text.encode()),
        replace_file(Path(f"{stem}.csv"), csv_bytes(frame)),
    ]


def unit_sign(metric: Described) -> str:
    """The unit as it follows a title; nothing for plain numbers."""
    return UNIT_SIGNS.get(metric.unit, f" ({metric.unit})")


def _column_title(metric: Described) -> str:
    return f"{metric.title}{unit_sign(metric)} {'↑' if metric.higher_is_better else '↓'}"


def _heading(text: str, metrics: Mapping[str, Described]) -> tuple[list[str], list[str]]:
    return [text, *[""] * (len(metrics) + 1)], ["heading"] * (len(metrics) + 2)


def _our_row(
    cell_of: pd.DataFrame, row: tuple[str, str, str], metrics: Mapping[str, Described], best: dict[str, str]
) -> tuple[list[str], list[str]]:
    found = {name: cell_of.loc[(*row, name)] for name in metrics if (*row, name) in cell_of.index}
    seeds = max((int(cell["n"]) for cell in found.values()), default=0)
    cells, emphasis = [row[2], str(seeds) if seeds else ""], ["", ""]
    for name, metric in metrics.items():
        cell = found.get(name)
        if cell is None or not cell["n"]:
            cells.append("")
            emphasis.append("")
            continue
        text = _with_spread(cell["mean"], cell["std"], metric.digits)
        cells.append(text if cell["n"] == seeds else f"{text} (n={int(cell['n'])})")
        emphasis.append("bold" if best.get(name) == _printed(cell["mean"], metric.digits) else "")
    return cells, emphasis


def _paper_row(
    cell_of: pd.DataFrame, row: tuple[str, str, str], metrics: Mapping[str, Described], label: str
) -> tuple[list[str], list[str]]:
    there = (cell_of.loc[(*row, name)] for name in metrics if (*row, name) in cell_of.index)
    found = {cell.name[-1]: cell for cell in there if pd.notna(cell["paper_value"])}
    seeds = max((cell["paper_n"] for cell in found.values() if pd.notna(cell["paper_n"])), default=0)
    cells = [label, f"{seeds:.0f}" if seeds else ""]
    for name, metric in metrics.items():
        cell = found.get(name)
        if cell is None:
            cells.append("")
            continue
        # The spread of a single run, which Table 1 prints as 0.0, is none.
        std = float("nan") if cell["paper_n"] == 1 else cell["paper_std"]
        cells.append(_with_spread(cell["paper_value"], std, metric.digits))
    return cells, ["italic"] * len(cells)


def _best_of(
    cell_of: pd.DataFrame, pair: tuple[str, str], metrics: Mapping[str, Described]
) -> dict[str, str]:
    """Per metric the best of our means in a block, as printed; none where fewer than two methods have one."""
    best = {}
    measured = cell_of.dropna(subset="mean").reset_index()
    block = measured[(measured["dataset"] == pair[0]) & (measured["model"] == pair[1])]
    for name, metric in metrics.items():
        means = block.loc[block["metric"] == name, "mean"]
        if len(means) > 1:
            best[name] = _printed(means.max() if metric.higher_is_better else means.min(), metric.digits)
    return best


def _printed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _with_spread(value: float, std: float, digits: int) -> str:
    return _printed(value, digits) if pd.isna(std) else f"{_printed(value, digits)} ± {_printed(std, digits)}"


def _note(paper: pd.DataFrame, published: set[tuple[str, str, str]]) -> str:
    """Which rows of the paper are known to exist but not with what numbers."""
    missing = []
    for pair in pairs_of(paper):
        block = paper[(paper["dataset"] == pair[0]) & (paper["model"] == pair[1])]
        methods = list(dict.fromkeys(block["method"]))
        lost = [method for method in methods if (*pair, method) not in published]
        if lost:
            missing.append(", ".join(pair) + ("" if lost == methods else f" ({', '.join(lost)})"))
    return f"Published values not recovered for: {'; '.join(missing)}." if missing else ""


def _in_row_order(
    numbers: pd.DataFrame, pairs: Iterable[tuple[str, str]], methods: Iterable[str], metrics: Iterable[str]
) -> pd.DataFrame:
    rows = product(dict.fromkeys(pairs), methods, metrics)
    place = {(*pair, method, metric): i for i, (pair, method, metric) in enumerate(rows)}
    keys = zip(*(numbers[name] for name in CELL), strict=True)
    return numbers.assign(place=[place[key] for key in keys]).sort_values("place").drop(columns="place")
