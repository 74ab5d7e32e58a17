"""From measured numbers to a table: spread over rounds, ratio to a peer, goal."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]  # one measured case, ready for JSON


def spread(values: Iterable[float]) -> Row:
    """Median and quartiles of a number that was measured in rounds, and what each round gave."""
    rounds = [float(f"{value:.5g}") for value in values]
    low, median, high = statistics.quantiles(rounds, n=4, method="inclusive") if rounds[1:] else rounds * 3
    return {"median": median, "low": low, "high": high, "rounds": rounds}


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> Row:
    """Spread of ours / theirs, taken round by round: what slows the machine down slows down both."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def show(measured: Row | None) -> str:
    """`median (lower quartile-upper quartile)`; a dash for what was not measured."""
    if measured is None:
        return "-"
    if len(measured["rounds"]) == 1:
        return _digits(measured["median"])
    return f"{_digits(measured['median'])} ({_digits(measured['low'])}-{_digits(measured['high'])})"


def goal(value: float, at_most: float) -> str:
    """What was aimed at, and whether it was reached."""
    return f"<= {at_most:g}: {'reached' if value <= at_most else 'missed'}"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text, too; the first column is text."""
    cells = [list(heads), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in (cells[0], rule, *cells[1:])
    )


def _digits(value: float) -> str:
    """Three digits, four for a ratio near one, where the third decimal is what matters."""
    if value < 0.9:
        return f"{value:.3g}"
    return f"{value:,.{3 if value < 2 else 2 if value < 10 else 1 if value < 100 else 0}f}"
