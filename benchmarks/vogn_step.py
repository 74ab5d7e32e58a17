"""Time and peak memory of a VOGN step against those of an SGD step: ResNet-20, 50 images of 32x32.

    python -m benchmarks.vogn_step [--device cpu|cuda] [--rounds 10] [--chunks 10 25 50]

VOGN computes a gradient for each image (`ivon.per_example_backward`), of as many at a time as a chunk has:
larger chunks are faster and take more memory. A step is everything from the reset of the gradients to the end
of the update, at one posterior draw. Peak memory is all that is alive in a step: weights, state of the
optimizer, activations. On a GPU both are compiled as well, as the experiments compile SGD's network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.vogn import VOGN
from benchmarks import _command
from benchmarks._command import Findings
from benchmarks._table import Row, goal, ratio, show, spread, table
from benchmarks._timing import Stopwatch, Work, take_turns, to_compare
from experiments.engine.allocated import Maker, Step, peak_bytes
from experiments.models import MODELS
from ivon import per_example_backward

TURN = 1.0  # seconds
BATCH_SIZE = 50  # Sec. C.2
PEER = "SGD"
GOALS = {"time": 1.6, "memory": 1.3}  # of the peer's at most, on a GPU


def resnet20(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and a batch of random images with labels."""
    torch.manual_seed(0)
    network = MODELS["resnet20"].build(10).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH_SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(BATCH_SIZE, device=device) % 10
    return network, images.to(device, memory_format=torch.channels_last), labels


def sgd(device: torch.device, *, compiled: bool) -> Step:
    """A step of SGD with momentum."""
    network, images, labels = resnet20(device)
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(images), labels).backward()
        optimizer.step()

    return step


def vogn(device: torch.device, chunk: int, *, compiled: bool) -> Step:
    """A step of VOGN with one draw; the first one makes an extra pass for the first curvature."""
    network, images, labels = resnet20(device)
    backward = torch.compile(per_example_backward) if compiled else per_example_backward
    optimizer = VOGN(network.parameters(), lr=1e-4, data_size=50_000, damping=1e-3)
    return lambda: optimizer.step(
        lambda: backward(network, F.cross_entropy, images, labels, chunk_size=chunk)
    )


def makers(device: torch.device, chunks: Sequence[int]) -> dict[str, Maker]:
    """What is compared, the peer first. On a CPU compiling takes minutes and gains nothing."""
    made: dict[str, Maker] = {}
    for compiled in (False, True) if device.type == "cuda" else (False,):
        suffix = ", compiled" if compiled else ""
        made[f"{PEER}{suffix}"] = lambda c=compiled: sgd(device, compiled=c)
        for chunk in chunks:
            made[f"VOGN, chunks of {chunk}{suffix}"] = lambda n=chunk, c=compiled: vogn(device, n, compiled=c)
    return made


def timed(step: Step) -> Work:
    """The whole step counts."""

    def work(watch: Stopwatch) -> None:
        watch.start()
        step()
        watch.stop()

    return work


def compare(made: dict[str, Maker], device: torch.device, rounds: int) -> list[Row]:
    """A row for each candidate; ratios are to the peer that is compiled, or not, like it."""
    memory = {name: peak_bytes(make, device) for name, make in made.items()}
    works = {name: timed(make()) for name, make in made.items()}
    taken = take_turns(works, device, rounds=rounds, seconds=TURN)
    seconds = {name: to_compare(spent, device) for name, spent in taken.items()}
    rows: list[Row] = []
    for name, spent in taken.items():
        peer = f"{PEER}, compiled" if name.endswith("compiled") else PEER
        rows.append(
            {
                "candidate": name,
                "clock_ms": spread(one.clock * 1e3 for one in spent),
                "processor_ms": spread(one.processor * 1e3 for one in spent),
                "peak_mb": memory[name] / 1e6,
                "time_ratio": None if name == peer else ratio(seconds[name], seconds[peer]),
                "memory_ratio": None if name == peer else memory[name] / memory[peer],
                "goals": GOALS if device.type == "cuda" and name != peer else {},
            }
        )
    return rows


def as_table(rows: list[Row]) -> str:
    """Milliseconds and megabytes, and the ratios to SGD."""
    heads = ["step", "ms", "processor ms", "time / SGD", "goal", "peak MB", "memory / SGD", "goal"]
    lines = [
        [
            row["candidate"],
            show(row["clock_ms"]),
            show(row["processor_ms"]),
            show(row["time_ratio"]),
            goal(row["time_ratio"]["median"], row["goals"]["time"]) if row["goals"] else "",
            f"{row['peak_mb']:.1f}",
            "-" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}",
            goal(row["memory_ratio"], row["goals"]["memory"]) if row["goals"] else "",
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    _command.add_rounds(parser, 10)
    parser.add_argument("--chunks", nargs="+", type=int, default=[10, 25, BATCH_SIZE], metavar="EXAMPLES")
    options = _command.begin(parser, arguments)
    rows = compare(makers(options.device, options.chunks), options.device, options.rounds)
    _command.finish(options, Findings(rows), as_table(rows))


if __name__ == "__main__":
    main()
