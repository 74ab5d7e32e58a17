"""Time of a whole training step: GPT-2 with IVON against AdamW, ResNet-20 with IVON against SGD.

    python -m benchmarks.training_step [--device cpu|cuda] [--networks gpt2 resnet20] [--rounds 10]
                                       [--full] [--sequences 20]

GPT-2: bfloat16 autocast, sequences of 1024 tokens, AdamW(fused=True); on a GPU the small model of the paper,
compiled, 20 sequences (its micro-batch); on a CPU a toy of the same kind unless --full is given. ResNet-20:
50 images of 32x32 in float32, SGD with momentum, compiled on a GPU as the experiments do. A step is
everything from the reset of the gradients to the end of the update; both optimizers see the same batch in
turns, each with a network of its own.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from benchmarks import _command
from benchmarks._command import Findings
from benchmarks._table import Row, goal, ratio, show, spread, table
from benchmarks._timing import Stopwatch, Work, take_turns, to_compare
from experiments.gpt2.network import NextTokenLoss
from experiments.models import MODELS
from experiments.models.gpt2 import SIZES, Size
from experiments.models.gpt2.network import GPT2
from ivon import IVON

TURN = 1.0  # seconds
TOY = Size(blocks=2, heads=4, width=128, context=256, vocabulary=2048)
# Of the time with the peer at most this, on a GPU: elsewhere drawing the noise weighs differently.
GOALS = {"gpt2": 1.03, "resnet20": 1.05}
BATCH_SIZE = 50  # Sec. C.2

Loss = Callable[[], Tensor]  # of one network on one batch
Case = tuple[str, nn.Module, Loss]  # a description, a new network and its loss


def gpt2(device: torch.device, *, full: bool, sequences: int) -> Case:
    """GPT-2 small, or a toy of it, and random text."""
    size = SIZES["gpt2-small"] if full else TOY
    torch.manual_seed(0)
    network = NextTokenLoss(GPT2(size)).to(device)
    shape = (sequences, size.context + 1)
    text = torch.randint(size.vocabulary, shape, generator=torch.Generator().manual_seed(1)).to(device)
    forward = torch.compile(network) if device.type == "cuda" else network

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return forward(text)

    name = "GPT-2 small" if full else f"GPT-2 of {size.blocks} blocks, width {size.width}"
    return f"{name}, {sequences} x {size.context} tokens", network, loss


def resnet20(device: torch.device) -> Case:
    """ResNet-20 and one batch of random images."""
    torch.manual_seed(0)
    network = MODELS["resnet20"].build(10).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH_SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE, device=device) % 10
    forward = torch.compile(network) if device.type == "cuda" else network
    return f"ResNet-20, {BATCH_SIZE} images", network, lambda: F.cross_entropy(forward(images), labels)


def decayed(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight decay for matrices and embeddings only."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def ivon_for(kind: str, network: nn.Module) -> IVON:
    """With the paper's settings (Sec. C.1, C.2)."""
    if kind == "resnet20":
        return IVON(network.parameters(), 0.2, 50_000, hess_init=0.5, weight_decay=2e-4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "weight_decay is 0")  # as in the paper
        return IVON(decayed(network, 1e-6), 0.3, 1e10, hess_init=1e-3, clip_radius=1e-3, rescale_lr=False)


def peer_for(kind: str, network: nn.Module) -> tuple[str, torch.optim.Optimizer]:
    """What such a network is usually trained with."""
    if kind == "resnet20":
        return "SGD momentum", SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    return "AdamW fused", AdamW(decayed(network, 0.1), lr=6e-4, betas=(0.9, 0.95), fused=True)


def variational_step(optimizer: IVON, loss: Loss) -> Work:
    """One step with the gradient at a posterior draw."""

    def step(watch: Stopwatch) -> None:
        watch.start()
        with optimizer.sampled_params(train=True):
            loss().backward()
        optimizer.step()
        watch.stop()

    return step


def plain_step(optimizer: torch.optim.Optimizer, loss: Loss) -> Work:
    """One step with the gradient at the parameters."""

    def step(watch: Stopwatch) -> None:
        watch.start()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        watch.stop()

    return step


def compare(
    kind: str, make: Callable[[], Case], device: torch.device, rounds: int, at_most: float | None
) -> list[Row]:
    """A row for IVON and one for its peer."""
    title, network, loss = make()
    _, other_network, other_loss = make()
    peer, other = peer_for(kind, other_network)
    works = {"IVON": variational_step(ivon_for(kind, network), loss), peer: plain_step(other, other_loss)}
    begin = loss().item()
    taken = take_turns(works, device, rounds=rounds, seconds=TURN)
    seconds = {name: to_compare(spent, device) for name, spent in taken.items()}
    return [
        {
            "network": title,
            "parameters": sum(p.numel() for p in network.parameters()),
            "optimizer": name,
            "clock_ms": spread(one.clock * 1e3 for one in spent),
            "processor_ms": spread(one.processor * 1e3 for one in spent),
            "ratio": {peer: ratio(seconds[name], seconds[peer])} if name != peer else {},
            "goals": {peer: at_most} if name != peer and at_most else {},
            "loss": [begin, final().item()],
        }
        for (name, spent), final in zip(taken.items(), (loss, other_loss), strict=True)
    ]


def as_table(rows: list[Row]) -> str:
    """Milliseconds of a step, the ratio, and the loss before and after all steps: a sign that it learns."""
    heads = ["network", "optimizer", "ms a step", "processor ms", "ratio", "loss", "goal"]
    lines = [
        [
            f"{row['network']}, {row['parameters']:,} parameters",
            row["optimizer"],
            show(row["clock_ms"]),
            show(row["processor_ms"]),
            " ".join(f"/ {peer} {show(found)}" for peer, found in row["ratio"].items()),
            "{:.2f} to {:.2f}".format(*row["loss"]),
            " ".join(goal(row["ratio"][peer]["median"], limit) for peer, limit in row["goals"].items()),
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _command.parser(__doc__)
    _command.add_rounds(parser, 10)
    parser.add_argument("--networks", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--full", action="store_true", help="GPT-2 small on a CPU, too")
    parser.add_argument("--sequences", type=int, help="in a batch (default: 20 of GPT-2 small, 4 of the toy)")
    options = _command.begin(parser, arguments)
    device = options.device
    full = options.full or device.type == "cuda"
    sequences = options.sequences or (20 if full else 4)
    makers: dict[str, Callable[[], Case]] = {
        "gpt2": lambda: gpt2(device, full=full, sequences=sequences),
        "resnet20": lambda: resnet20(device),
    }
    findings = Findings()
    for kind in options.networks:
        at_most = GOALS[kind] if device.type == "cuda" else None
        findings.rows += compare(kind, makers[kind], device, options.rounds, at_most)
    _command.finish(options, findings, as_table(findings.rows))


if __name__ == "__main__":
    main()
