"""Costs of methods and their ratios beside the published ones, in Markdown, LaTeX and CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from plots.comparison import CELL
from plots.files import csv_bytes, replace_file
from plots.table_formats import LATEX, fitted, latex_caption

PLACE = ["dataset", "model", "method"]
TITLES = {"dataset": "Data", "model": "Network", "method": "Method"}


def beside(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Our numbers and the published ones: the columns of `ours` (dataset, model, method, metric, value, low,
    high, rounds), then paper_value and paper_source; rows of ours first, then what only the paper has.

    A published row without a value (the paper prints a dash) is left out.
    """
    published = paper.dropna(subset="value").rename(
        columns={"value": "paper_value", "source": "paper_source"}
    )
    both = ours.merge(published[[*CELL, "paper_value", "paper_source"]], on=CELL, how="outer", sort=False)
    order = list(dict.fromkeys(map(tuple, pd.concat([ours, published])[CELL].values)))
    place = [order.index(key) for key in map(tuple, both[CELL].values)]
    return both.assign(place=place).sort_values("place").drop(columns="place").reset_index(drop=True)


def grid(
    numbers: pd.DataFrame, columns: Mapping[str, str], *, published: Sequence[str], ranges: Sequence[str]
) -> pd.DataFrame:
    """Printed cells, a row for each method of each network; empty where there is nothing.

    `columns` are metrics and their titles. Those in `published` have the paper's value in a column beside
    ours, those in `ranges` the lowest and highest of the rounds after their median.
    """
    cell_of = numbers.set_index(CELL)
    rows = []
    for place in dict.fromkeys(map(tuple, numbers.loc[numbers["metric"].isin(list(columns)), PLACE].values)):
        row = {TITLES[name]: text for name, text in zip(PLACE, place, strict=True)}
        for metric, title in columns.items():
            found = cell_of.loc[(*place, metric)] if (*place, metric) in cell_of.index else None
            row[title] = "" if found is None else _printed(found["value"])
            if row[title] and metric in ranges:
                row[title] += f" ({_printed(found['low'])} to {_printed(found['high'])})"
            if metric in published:
                row[f"{title}, paper"] = "" if found is None else _printed(found["paper_value"])
        rows.append(row)
    return pd.DataFrame(rows)


def write(
    stem: Path, grids: Sequence[pd.DataFrame], numbers: pd.DataFrame, caption: str, legend: str
) -> list[Path]:
    """`stem`.md and .tex with the grids one below the other, .csv with the unrounded numbers."""
    text = "\n\n".join((caption, *map(_markdown, grids), legend)) + "\n"
    tabulars = "\n\n\\medskip\n".join(map(_latex, grids))
    label = f"\\label{{tab:{Path(stem).name}}}"
    float_ = fitted(
        "\\begin{table}[t]\n\\centering\n"
        f"\\caption{{{latex_caption(f'{caption} {legend}')}}}\n{label}\n\\footnotesize\n"
        f"{tabulars}\n\\end{{table}}\n"
    )
    return [
        replace_file(Path(f"{stem}.md"), text.encode()),
        replace_file(Path(f"{stem}.tex"), float_.encode()),
        replace_file(Path(f"{stem}.csv"), csv_bytes(numbers)),
    ]


def _printed(value: float) -> str:
    """Three digits that count, or all of those before the point."""
    if pd.isna(value):
        return ""
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}"


def _markdown(cells: pd.DataFrame) -> str:
    align = ["left" if title in TITLES.values() else "right" for title in cells.columns]
    return cells.to_markdown(index=False, disable_numparse=True, colalign=align)


def _latex(cells: pd.DataFrame) -> str:
    styler = cells.style.hide(axis="index").format(lambda cell: cell.translate(LATEX))
    styler = styler.format_index(lambda title: title.translate(LATEX), axis="columns")
    align = "".join("l" if title in TITLES.values() else "r" for title in cells.columns)
    return styler.to_latex(hrules=True, column_format=align).strip()
