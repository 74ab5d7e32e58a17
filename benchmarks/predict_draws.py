"""Time of `ivon.predict`: against plain passes of the network, and against the loop that one would write.

    python -m benchmarks.predict_draws [--device cpu|cuda] [--threads 1] [--cases resnet20 ...] [--rounds 5]

*passes* are as many passes as there are draws, with one set of weights: what no average over draws can do
without. The *loop* draws for each pass with `Posterior.sampled`. Where a pass takes a long time the draws are
small beside it and `predict` must cost what the passes cost; where it does not, `predict` makes the passes of
many draws in one, and must not cost more than the loop. They take turns; ratios are taken round by round,
from seconds of the clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import _command
from benchmarks._command import Findings
from benchmarks._table import Row, goal, ratio, show, spread, table
from benchmarks._timing import Stopwatch, Work, take_turns
from experiments.models import MODELS
from ivon import IVON, predict
from ivon.posterior import Posterior

GOAL = 1.05
TURN = 0.2  # seconds


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, inputs, how many draws, and what to compare `predict` with; the goal is for the last one."""

    title: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    draws: int
    peers: tuple[str, ...] = ("passes", "loop")


def perceptron(width: int) -> nn.Module:
    """4 inputs, two hidden layers, 3 classes."""
    hidden = nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, 3))


def resnet20(width: int) -> nn.Module:
    return MODELS["resnet20"].build(10, width=width)


CASES = {
    "resnet20": Case(
        title="ResNet-20, 500 images",
        network=lambda: resnet20(16),
        shape=(500, 3, 32, 32),
        draws=8,
        peers=("passes",),
    ),
    "resnet20-one": Case(
        title="ResNet-20, 1 image", network=lambda: resnet20(16), shape=(1, 3, 32, 32), draws=64
    ),
    "resnet20-thin": Case(
        title="ResNet-20 of width 4, 1 image", network=lambda: resnet20(4), shape=(1, 3, 32, 32), draws=64
    ),
    "perceptron": Case(
        title="perceptron, 2 x 100 units, 20 inputs",
        network=lambda: perceptron(100),
        shape=(20, 4),
        draws=64,
    ),
    "perceptron-many": Case(
        title="perceptron, 2 x 100 units, 1,000 inputs",
        network=lambda: perceptron(100),
        shape=(1000, 4),
        draws=64,
    ),
    "perceptron-few": Case(
        title="perceptron, 2 x 100 units, 8 draws", network=lambda: perceptron(100), shape=(20, 4), draws=8
    ),
}


def works_of(case: Case, device: torch.device) -> dict[str, Work]:
    """What is timed, by name."""
    torch.manual_seed(0)
    network = case.network().to(device).eval()
    inputs = torch.randn(case.shape).to(device)
    optimizer = IVON(network.parameters(), lr=0.1, ess=50_000)
    posterior = Posterior.of(network, optimizer)

    def log_probs() -> Tensor:
        return network(inputs).log_softmax(-1)

    def passes() -> None:
        for _ in range(case.draws):
            log_probs()

    def loop() -> None:
        total = None
        for k in range(case.draws):
            with posterior.sampled(network, k):
                one = log_probs()
            total = one if total is None else torch.logaddexp(total, one)

    def ours() -> None:
        predict(network, inputs, case.draws, posterior=posterior)

    def timed(call: Callable[[], None]) -> Work:
        def work(watch: Stopwatch) -> None:
            watch.start()
            with torch.no_grad():
                call()
            watch.stop()

        return work

    peers = {"passes": passes, "loop": loop}
    return {"predict": timed(ours), **{name: timed(peers[name]) for name in case.peers}}


def measure(names: Sequence[str], device: torch.device, rounds: int) -> Findings:
    """A row for each case."""
    findings = Findings()
    for name in names:
        case = CASES[name]
        spent = take_turns(works_of(case, device), device, rounds=rounds, seconds=TURN)
        clocks = {work: [one.clock for one in taken] for work, taken in spent.items()}
        findings.rows.append(
            {
                "case": name,
                "title": case.title,
                "draws": case.draws,
                "milliseconds": {
                    work: spread(1e3 * clock for clock in taken) for work, taken in clocks.items()
                },
                "ratio": {other: ratio(clocks["predict"], clocks[other]) for other in case.peers},
                "goals": {case.peers[-1]: GOAL},
            }
        )
    return findings


def as_table(rows: list[Row]) -> str:
    """Milliseconds for all draws, and the ratios."""
    heads = ["network", "draws", "predict ms", "passes ms", "loop ms", "/ passes", "/ loop", "goal"]
    lines = [
        [
            row["title"],
            str(row["draws"]),
            *(show(row["milliseconds"].get(work)) for work in ("predict", "passes", "loop")),
            *(show(row["ratio"].get(other)) for other in ("passes", "loop")),
            "; ".join(
                f"/ {other} {goal(row['ratio'][other]['median'], at_most)}"
                for other, at_most in row["goals"].items()
            ),
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    _command.add_rounds(parser, 5)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    options = _command.begin(parser, arguments)
    findings = measure(options.cases, options.device, options.rounds)
    _command.finish(options, findings, as_table(findings.rows))


if __name__ == "__main__":
    main()
