"""A short measurement of a training's speed on this machine, where no run like it has been recorded."""

import time
from itertools import chain, repeat
from typing import Any

import torch

from experiments.engine import files
from experiments.engine.compiler_cache import guard_compiler_cache
from experiments.engine.distributed import single
from experiments.engine.estimate import MEASURED
from experiments.engine.machine import fix_arithmetic, machine_facts
from experiments.engine.record import Store, encode
from experiments.engine.spec import Training

WARM_UP_STEPS = 3  # allocation, compilation
STEPS, SECONDS = 100, 20.0  # whichever comes first


def measure(spec: Training, store: Store, device: str) -> dict[str, Any]:
    """Time some steps of `spec` and keep the result in the store's `throughput` folder."""
    fix_arithmetic()  # as in a run
    guard_compiler_cache()
    group = single(torch.device(device))
    task = spec.begin(group)
    task.begin_round()
    batches = chain.from_iterable(task.batches() for _ in repeat(None))
    steps = 0
    start = time.monotonic()
    for batch in batches:
        task.step = 0
        task.take_step(*batch)
        steps += 1
        if steps == WARM_UP_STEPS:
            group.wait()
            start = time.monotonic()
        if steps > WARM_UP_STEPS and (steps >= STEPS or time.monotonic() - start > SECONDS):
            break
    group.wait()
    measured = {
        "spec": spec.model_dump(mode="json"),
        "seconds": time.monotonic() - start,
        "steps": steps - WARM_UP_STEPS,
        "machine": {**machine_facts(group.device), "processes": 1},
    }
    folder = store.root / "throughput" / spec.id
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / MEASURED, encode(measured))
    return measured
