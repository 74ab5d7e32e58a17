"""Memory of an optimizer beyond parameters and gradients, in bytes for each parameter.

    python -m benchmarks.optimizer_memory [--device cpu|cuda] [--shapes resnet20 ...]
                                          [--dtype float32|bfloat16] [--ivon-opt FOLDER]

Kept: between two steps. Peak: of a step with one draw, from the draw to the end of `step()`, without a
network. `benchmarks/_memory.py` says how both are measured, and what the two ways on a CPU see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks import _command, _memory, ivon_opt
from benchmarks._command import Findings
from benchmarks._optimizers import ADAMW, OURS, Builder, builders, fit
from benchmarks._table import Row, goal, table
from benchmarks.shapes import NAMES, Shape, shapes_of, total

KEPT, PEAK = 8.0, 12.0  # bytes for each float32 parameter: what IVON may take


@dataclass(frozen=True)
class Case:
    """One optimizer on parameters of these shapes."""

    optimizer: str
    shapes: Sequence[Shape]


def memory_of(
    cases: Sequence[Case],
    makers: Mapping[str, Builder],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> list[Row | None]:
    """Kept and peak of each case, counted and resident; None where a way, or all, is out of reach."""
    on_gpu = device.type == "cuda"
    rows: list[Row | None] = []
    for case in cases:
        resident = None
        if not fit([case.optimizer], total(case.shapes), device):
            rows.append(None)
            continue
        if not on_gpu and total(case.shapes) >= _memory.RESIDENT_FROM:
            resident = _memory.resident(makers[case.optimizer], case.shapes, dtype)
        rows.append(
            {
                "kept": None,
                "peak": None,
                "resident_kept": resident and resident.kept,
                "resident_peak": resident and resident.peak,
            }
        )
    for case, row in zip(cases, rows, strict=True):
        if row is not None and (on_gpu or total(case.shapes) <= _memory.COUNTED_UP_TO):
            counted = _memory.counted(makers[case.optimizer], case.shapes, device, dtype)
            row |= {"kept": counted.kept, "peak": counted.peak}
    return rows


def measure(
    names: Sequence[str], makers: Mapping[str, Builder], device: torch.device, dtype: torch.dtype
) -> Findings:
    """A row for each network and optimizer."""
    findings = Findings()
    named = [(name, Case(optimizer, shapes_of(name))) for name in names for optimizer in makers]
    memories = memory_of([case for _, case in named], makers, device, dtype)
    for (name, case), memory in zip(named, memories, strict=True):
        if memory is None:
            findings.left_out.append(f"{case.optimizer} on {name}: too large")
            continue
        has_goal = case.optimizer == OURS and dtype == torch.float32
        findings.rows.append(
            {
                "shapes": name,
                "parameters": total(case.shapes),
                "tensors": len(case.shapes),
                "dtype": str(dtype).removeprefix("torch."),
                "optimizer": case.optimizer,
                **memory,
                "goals": {"kept": KEPT, "peak": PEAK} if has_goal else {},
            }
        )
    return findings


def as_table(rows: list[Row]) -> str:
    """Bytes for each parameter."""
    heads = ["network", "optimizer", "kept", "peak", "resident kept", "resident peak", "goal"]
    lines = [
        [
            f"{row['shapes']}, {row['parameters']:,} in {row['tensors']} ({row['dtype']})",
            row["optimizer"],
            *(show_bytes(row[key]) for key in ("kept", "peak", "resident_kept", "resident_peak")),
            "; ".join(f"{key} {_verdict(row, key, at_most)}" for key, at_most in row["goals"].items()),
        ]
        for row in rows
    ]
    return table(heads, lines)


def show_bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _verdict(row: Row, key: str, at_most: float) -> str:
    """To the tenth of a byte: a few numbers for each tensor, such as its step count, are no breach."""
    found = row[key] if row[key] is not None else row[f"resident_{key}"]
    return f"<= {at_most:g}" if found is None else goal(round(found, 1), at_most)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=NAMES, default=["resnet20", "resnet50"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--ivon-opt", type=_command.path, metavar="FOLDER", help="where pip has put ivon-opt")
    options = _command.begin(parser, arguments)
    peer = ivon_opt.find(options.ivon_opt)
    makers = builders([ADAMW, "AdamW foreach", "SGD momentum"], peer)
    findings = measure(options.shapes, makers, options.device, getattr(torch, options.dtype))
    if peer is None:
        findings.left_out.append(ivon_opt.HOW_TO_GET_IT)
    _command.finish(options, findings, as_table(findings.rows))


if __name__ == "__main__":
    main()
