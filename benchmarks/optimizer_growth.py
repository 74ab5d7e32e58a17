"""How time and memory of an optimizer step grow: with the parameters, and with the tensors they are in.

    python -m benchmarks.optimizer_growth [--device cpu|cuda] [--largest 1e8] [--total 1e7] [--most 1e4]
                                          [--rounds 5]

First one tensor of 10^4 parameters, ten times more each time, up to `--largest`; then `--total` parameters in
10 tensors, ten times more each time, up to `--most`. Time as in benchmarks.optimizer_step, memory as in
benchmarks.optimizer_memory: counted where that is possible, otherwise resident.
"""

from collections.abc import Mapping, Sequence

import torch

from benchmarks import _command
from benchmarks._command import Findings
from benchmarks._optimizers import ADAMW, OURS, Builder, builders, fit
from benchmarks._table import Row, ratio, show, spread, table
from benchmarks._timing import to_compare
from benchmarks.optimizer_memory import Case, memory_of, show_bytes
from benchmarks.optimizer_step import step_times
from benchmarks.shapes import Shape, total

FEWEST_PARAMETERS = 10_000
FEWEST_TENSORS = 10


def powers_of_ten(first: int, last: int) -> list[int]:
    """first, 10 first, ... up to last."""
    found = [first] if first <= last else []
    while found and 10 * found[-1] <= last:
        found.append(10 * found[-1])
    return found


def sweep(largest: int, whole: int, most: int) -> list[tuple[str, list[Shape]]]:
    """What grows, and the shapes: first the parameters, then the tensors."""
    sizes = [[(size,)] for size in powers_of_ten(FEWEST_PARAMETERS, largest)]
    counts = [[(whole // count,)] * count for count in powers_of_ten(FEWEST_TENSORS, most)]
    return [*(("parameters", shapes) for shapes in sizes), *(("tensors", shapes) for shapes in counts)]


def measure(
    cases: Sequence[tuple[str, list[Shape]]],
    makers: Mapping[str, Builder],
    device: torch.device,
    rounds: int,
) -> Findings:
    """A row for each case and optimizer; cases in which ours does not fit into memory are left out."""
    findings, measured = Findings(), []
    for grows, shapes in cases:
        if not fit([OURS], total(shapes), device):
            findings.left_out.append(f"{total(shapes):,} parameters: too large")
            continue
        taken = step_times(makers, shapes, device, rounds=rounds)
        seconds = {name: to_compare(spent, device) for name, spent in taken.items()}
        for name, mine in seconds.items():
            measured.append(Case(name, shapes))
            findings.rows.append(
                {
                    "grows": grows,
                    "parameters": total(shapes),
                    "tensors": len(shapes),
                    "optimizer": name,
                    "ns": spread(second / total(shapes) * 1e9 for second in mine),
                    "ratio": {
                        other: ratio(mine, seconds[other])
                        for other in seconds
                        if name == OURS and other != OURS
                    },
                }
            )
    # After all timing, which the measuring of memory disturbs.
    for row, memory in zip(findings.rows, memory_of(measured, makers, device), strict=True):
        row.update(memory or {})
    return findings


def nanoseconds_per_tensor(rows: list[Row]) -> dict[str, float]:
    """What one more tensor costs each optimizer, parameters being equal: the slope from fewest to most."""
    found = {}
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["grows"] == "tensors" and row["optimizer"] == name]
        if len(mine) > 1:
            few, many = mine[0], mine[-1]
            times = [row["ns"]["median"] * row["parameters"] for row in (few, many)]
            found[name] = (times[1] - times[0]) / (many["tensors"] - few["tensors"])
    return found


def as_table(rows: list[Row]) -> str:
    """Time and memory for each parameter, and below it the cost of a tensor."""
    heads = [
        "parameters",
        "tensors",
        "optimizer",
        "ns/parameter",
        "/ AdamW fused",
        "ms a step",
        "kept",
        "peak",
    ]
    lines = [
        [
            f"{row['parameters']:,}",
            f"{row['tensors']:,}",
            row["optimizer"],
            show(row["ns"]),
            show(row["ratio"].get(ADAMW)),
            f"{row['ns']['median'] * row['parameters'] / 1e6:.3g}",
            *(_either(row, key) for key in ("kept", "peak")),
        ]
        for row in rows
    ]
    slopes = [f"{name} {slope:,.0f} ns" for name, slope in nanoseconds_per_tensor(rows).items()]
    below = f"\n\nOne more tensor costs {', '.join(slopes)}." if slopes else ""
    return table(heads, lines) + below


def _either(row: Row, key: str) -> str:
    return show_bytes(row[key] if row.get(key) is not None else row.get(f"resident_{key}"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    _command.add_rounds(parser, 5)
    parser.add_argument("--largest", type=float, default=1e8, help="parameters in one tensor")
    parser.add_argument("--total", type=float, default=1e7, help="parameters in all tensors")
    parser.add_argument("--most", type=float, default=1e4, help="tensors")
    options = _command.begin(parser, arguments)
    cases = sweep(int(options.largest), int(options.total), int(options.most))
    findings = measure(cases, builders([ADAMW], None), options.device, options.rounds)
    _command.finish(options, findings, as_table(findings.rows))


if __name__ == "__main__":
    main()
