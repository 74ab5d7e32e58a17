"""Time of one optimizer step, without the network: IVON against AdamW and the package ivon-opt.

    python -m benchmarks.optimizer_step [--device cpu|cuda] [--threads 1] [--shapes resnet20 ...]
                                        [--rounds 10] [--dtype float32|bfloat16] [--ivon-opt FOLDER]

A step of IVON is a draw, its removal and the update: entering and leaving `sampled_params(train=True)` and
`step()`, with gradients that lie ready. AdamW's is `step()` alone, without the zero_grad that IVON includes.
The gradients appear in `p.grad` while the watch stands still. The optimizers take turns, each with parameters
of its own; where memory is short they are measured one after another. Ratios are taken round by round, from
the clock (on a GPU that of its stream), and from processor time where one thread of the CPU does it all.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks import _command, ivon_opt
from benchmarks._command import Findings
from benchmarks._optimizers import (
    ADAMW,
    OURS,
    PEER,
    Builder,
    Candidate,
    builders,
    fit,
    hand_over,
    random_gradients,
    random_weights,
)
from benchmarks._table import Row, goal, ratio, show, spread, table
from benchmarks._timing import Spent, Stopwatch, Work, take_turns, to_compare
from benchmarks.shapes import NAMES, Shape, shapes_of, total

TURN = 0.1  # seconds
# IVON's time, at most this multiple of another's, on every network; on a GPU where it is not all overhead.
GOALS = {"cpu": {ADAMW: 8.0, PEER: 0.1}, "cuda": {ADAMW: 1.7}}


def timed_step(candidate: Candidate, weights: list[nn.Parameter], gradients: list[Tensor]) -> Work:
    """One step, without the time in which the gradients come."""

    def step(watch: Stopwatch) -> None:
        watch.start()
        candidate.draw()
        watch.stop()
        hand_over(weights, gradients)
        watch.start()
        candidate.update()
        watch.stop()

    return step


def step_times(
    makers: Mapping[str, Builder],
    shapes: Sequence[Shape],
    device: torch.device,
    *,
    rounds: int,
    dtype: torch.dtype = torch.float32,
    turn: float = TURN,
) -> dict[str, list[Spent]]:
    """Time of a step of each optimizer, for each round; what does not fit into memory is missing."""
    parameters = total(shapes)
    fitting = [name for name in makers if fit([name], parameters, device)]
    together = [fitting] if fit(fitting, parameters, device) else [[name] for name in fitting]
    gradients = random_gradients(shapes, device, dtype)

    def work(name: str) -> Work:
        weights = random_weights(shapes, device, dtype)
        return timed_step(makers[name](weights), weights, gradients)

    taken: dict[str, list[Spent]] = {}
    for names in together:
        taken |= take_turns({name: work(name) for name in names}, device, rounds=rounds, seconds=turn)
    return taken


def measure(
    names: Sequence[str], makers: Mapping[str, Builder], device: torch.device, rounds: int, dtype: torch.dtype
) -> Findings:
    """A row for each network and optimizer."""
    findings = Findings()
    for name in names:
        shapes = shapes_of(name)
        parameters = total(shapes)
        taken = step_times(makers, shapes, device, rounds=rounds, dtype=dtype)
        findings.left_out += [f"{other} on {name}: too large" for other in makers if other not in taken]
        goals = GOALS[device.type] if device.type == "cpu" or name.startswith("gpt2") else {}
        for optimizer, spent in taken.items():
            findings.rows.append(
                {
                    "shapes": name,
                    "parameters": parameters,
                    "tensors": len(shapes),
                    "dtype": str(dtype).removeprefix("torch."),
                    "optimizer": optimizer,
                    "clock_ns": spread(one.clock / parameters * 1e9 for one in spent),
                    "processor_ns": spread(one.processor / parameters * 1e9 for one in spent),
                    "ratio": {
                        other: ratio(to_compare(spent, device), to_compare(taken[other], device))
                        for other in (ADAMW, PEER)
                        if other in taken and other != optimizer
                    },
                    "goals": goals if optimizer == OURS else {},
                }
            )
    return findings


def as_table(rows: list[Row]) -> str:
    """Nanoseconds for each parameter, and the ratios."""
    heads = ["network", "optimizer", "ns/parameter", "processor ns", "/ AdamW fused", "/ ivon-opt", "goal"]
    lines = [
        [
            f"{row['shapes']}, {row['parameters']:,} in {row['tensors']} ({row['dtype']})",
            row["optimizer"],
            show(row["clock_ns"]),
            show(row["processor_ns"]),
            show(row["ratio"].get(ADAMW)),
            show(row["ratio"].get(PEER)),
            "; ".join(
                f"/ {other} {goal(row['ratio'][other]['median'], at_most)}"
                for other, at_most in row["goals"].items()
                if other in row["ratio"]
            ),
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    _command.add_rounds(parser, 10)
    parser.add_argument("--shapes", nargs="+", choices=NAMES, default=["resnet20", "resnet50"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--ivon-opt", type=_command.path, metavar="FOLDER", help="where pip has put ivon-opt")
    options = _command.begin(parser, arguments)
    peer = ivon_opt.find(options.ivon_opt)
    makers = builders([ADAMW, "AdamW foreach"], peer)
    findings = measure(options.shapes, makers, options.device, options.rounds, getattr(torch, options.dtype))
    if peer is None:
        findings.left_out.append(ivon_opt.HOW_TO_GET_IT)
    _command.finish(options, findings, as_table(findings.rows))


if __name__ == "__main__":
    main()
