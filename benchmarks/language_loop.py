"""Tokens a second of the engine's training of GPT-2 against a bare loop of the kind that nanoGPT made usual.

    python -m benchmarks.language_loop [--device cpu|cuda] [--full] [--corpus python-docs]
                                       [--rounds 8] [--steps 6]

The bare loop takes random windows from a memory-mapped file, computes the loss in bfloat16 (on a GPU), adds
the gradients of micro-batches up, clips them and steps with fused AdamW; the engine's side has the same
settings of AdamW, and beside the step its bookkeeping and its look at clock and signals. The same for IVON
against AdamW in the engine. All take turns, `steps` steps each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch

from baselines.settings import IVON, AdamW
from benchmarks.resnet20_step import machine
from experiments.data.text.windows import Tokens
from experiments.engine.distributed import Group, single
from experiments.engine.spec import LanguageSpec
from experiments.engine.train import Clock, look_up
from experiments.engine.watch import Watch
from experiments.gpt2.network import NextTokenLoss
from experiments.gpt2.training import LanguageTraining
from experiments.models.gpt2.network import GPT2, decayed

METHODS = {
    "AdamW": AdamW(lr=6e-4, beta2=0.95, weight_decay=0.1),
    "IVON": IVON(lr=300.0, ess=1e10, hess_init=1e-3, weight_decay=1e-6, clip_radius=1e-3),
}
Go = Callable[[], None]


def spec_of(method: str, *, full: bool, corpus: str) -> LanguageSpec:
    """GPT-2 small with the paper's micro-batch and two of them in a step, or the small one for CPUs."""
    shape = (
        {"model": "gpt2-small", "batch_size": 40, "micro_batch": 20, "precision": "bf16"}
        if full
        else {"model": "gpt2-mini", "batch_size": 16, "micro_batch": 8, "precision": "fp32"}
    )
    return LanguageSpec.model_validate({"corpus": corpus, "method": METHODS[method], **shape})


def engine(task: LanguageTraining, steps: int) -> Go:
    batches, clock, watch = task.batches(), Clock(0.0), Watch()

    def go() -> None:
        for batch in islice(batches, steps):
            task.take_step(*batch)
            if look_up(task, clock, watch):
                watch.progress(task.news())

    return go


def bare(spec: LanguageSpec, text: Tokens, group: Group, steps: int) -> Go:
    """A loop without an engine around it."""
    tokens = np.concatenate([np.asarray(shard) for shard in text._shards])  # one row, as in one file
    model = GPT2(spec.size_for(text.vocabulary)).to(group.device)
    loss_of = NextTokenLoss(model)
    forward = torch.compile(loss_of) if group.device.type == "cuda" else loss_of
    matrices, others = decayed(model)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    parts = spec.batch_size // spec.micro_batch
    chance = np.random.default_rng(0)

    def windows() -> torch.Tensor:
        starts = chance.integers(len(tokens) - spec.window - 1, size=spec.micro_batch)
        rows = np.stack([tokens[start : start + spec.window + 1].astype(np.int64) for start in starts])
        batch = torch.from_numpy(rows)
        return (
            batch.pin_memory().to(group.device, non_blocking=True) if group.device.type == "cuda" else batch
        )

    def go() -> None:
        for _ in range(steps):
            for _ in range(parts):
                with torch.autocast(group.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
                    loss = forward(windows()) / parts
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return go


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="GPT-2 small; usual on a GPU")
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    group = single(torch.device(arguments.device))
    full = arguments.full or arguments.device == "cuda"
    specs = {name: spec_of(name, full=full, corpus=arguments.corpus) for name in METHODS}
    tasks = {name: LanguageTraining(spec, group) for name, spec in specs.items()}
    sides = {f"engine, {name}": engine(task, arguments.steps) for name, task in tasks.items()}
    sides["bare loop, AdamW"] = bare(specs["AdamW"], tasks["AdamW"].text, group, arguments.steps)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    now = time.process_time if arguments.device == "cpu" else time.perf_counter
    for _ in range(arguments.rounds + 1):
        for name, go in sides.items():
            start = now()
            go()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            taken[name].append((now() - start) / arguments.steps)
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first warms up
    spec = specs["AdamW"]
    print(f"torch {torch.__version__}, {machine(arguments.device)}; {spec.network_name}, {spec.precision}")
    for name, seconds in medians.items():
        print(f"{name}: {spec.tokens_per_step / seconds:,.0f} tokens/s")
    bare_seconds, adamw = medians["bare loop, AdamW"], medians["engine, AdamW"]
    print(f"engine / bare loop: {adamw / bare_seconds:.3f} of the time")
    print(f"IVON / AdamW: {medians['engine, IVON'] / adamw:.3f} of the time (goal on a GPU: 1.03)")


if __name__ == "__main__":
    main()
