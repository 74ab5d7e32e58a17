"""A table that is ready to be written, and its forms as text: Markdown and LaTeX."""

import re
from dataclasses import dataclass

import pandas as pd

LEGEND = (
    "Mean ± standard deviation over n seeds (without ± if there is one). "
    "Bold: best mean of ours in its block. Italics: published values."
)
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to be written.

    numbers: what `compare` returns, unrounded, in the order of the rows.
    cells: the printed text, one column per printed column; an empty string where there is nothing.
    emphasis: "", "bold", "italic" or "heading" for each cell.
    note: which published values are missing; may be empty.
    """

    numbers: pd.DataFrame
    cells: pd.DataFrame
    emphasis: pd.DataFrame
    note: str


def to_markdown(table: Table, caption: str) -> str:
    """The table between its caption and its legend."""
    marks = {"": "", "bold": "**", "heading": "**", "italic": "*"}
    text = table.cells.map(lambda cell: cell.replace("|", "\\|").replace("*", "\\*"))
    wrapped = table.emphasis.map(marks.__getitem__).where(text != "", "")
    grid = (wrapped + text + wrapped).to_markdown(
        index=False, disable_numparse=True, colalign=["left", *["right"] * (table.cells.shape[1] - 1)]
    )
    return "\n\n".join(part for part in (caption, grid, LEGEND, table.note) if part) + "\n"


def to_latex(table: Table, caption: str, label: str) -> str:
    """A table float for a document that loads adjustbox and booktabs; legend and note are in the caption."""
    # A heading may reach over the empty cells beside it: \rlap gives it no width of its own.
    wraps = {
        "": "",
        "bold": "textbf:--rwrap",
        "heading": "rlap:--rwrap;textbf:--rwrap",
        "italic": "textit:--rwrap",
    }
    styles = table.emphasis.map(wraps.__getitem__).where(table.cells != "", "")
    styler = table.cells.style.hide(axis="index").apply(lambda _: styles, axis=None)
    styler = styler.format(_latex_cell).format_index(lambda title: title.translate(LATEX), axis="columns")
    styler = styler.set_table_styles([{"selector": "footnotesize", "props": ":{};"}])
    text = styler.to_latex(
        hrules=True,
        column_format="lr" + "r" * (table.cells.shape[1] - 2),
        position="t",
        position_float="centering",
        label=label,
        caption=latex_caption(" ".join(part for part in (caption, LEGEND, table.note) if part)),
    )
    return fitted(text)


def fitted(text: str) -> str:
    """The text of a float whose tabulars are made narrower where they are wider than the page."""
    text = text.replace(r"\begin{tabular}", "\\begin{adjustbox}{max width=\\linewidth}\n\\begin{tabular}")
    text = text.replace(r"\end{tabular}", "\\end{tabular}\n\\end{adjustbox}")
    return "% needs \\usepackage{adjustbox,booktabs}\n" + text


def latex_caption(text: str) -> str:
    """LaTeX numbers tables by itself, so "Table 1: " goes."""
    return re.sub(r"^Table \d+: ", "", text).translate(LATEX)


def _latex_cell(cell: str) -> str:
    """The spread as a subscript, which is narrower, as in the paper."""
    value, _, rest = cell.partition(" ± ")
    if not rest:
        return cell.translate(LATEX)
    spread, _, remark = rest.partition(" ")
    return f"{value}$_{{\\pm {spread}}}$ {remark.translate(LATEX)}".strip()
