"""Time of the engine's training steps against the bare loop of forward, backward and optimizer step.

    python -m benchmarks.engine_overhead [--device cpu|cuda] [--rounds 12] [--steps 8] [--method sgd]

CIFAR-10 with ResNet-20, batch 50, as in Table 8. The engine's side is what an epoch consists of: shuffling,
augmentation, the step, the bookkeeping of loss and accuracy, the look at clock and signals. The peer runs the
same network and optimizer over one batch that lies ready. The two take turns, `steps` steps each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch

from baselines.method import Loss
from benchmarks.resnet20_step import machine
from experiments.engine.distributed import single
from experiments.engine.image_training import ImageTraining
from experiments.engine.network import build
from experiments.engine.train import Clock, look_up
from experiments.engine.watch import Watch
from experiments.image_classification.grid import GRID_METHODS, training

ACCEPTED = 1.05  # the engine may cost this much of the bare loop


def engine_steps(run: ImageTraining, steps: int) -> Callable[[], None]:
    batches = run.batches()
    clock, watch = Clock(0.0), Watch()

    def go() -> None:
        for images, labels in islice(batches, steps):
            run.take_step(images, labels)
            if look_up(run, clock, watch):
                watch.progress({**run.news(), "seconds": clock.seconds()})

    return go


def bare_steps(run: ImageTraining, steps: int) -> Callable[[], None]:
    network = build(run.spec, run.group, train_size=len(run.data))
    images, labels = next(run.data.epoch(0, 0, run.spec.batch_size))

    def go() -> None:
        for _ in range(steps):
            network.method.step(Loss(network.logits, images, labels))

    return go


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--method", choices=GRID_METHODS, default="sgd")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = training("cifar10", "resnet20", arguments.method, 0, "paper")
    run = ImageTraining(spec, single(torch.device(arguments.device)))
    run.network.model.train()
    sides = {"engine": engine_steps(run, arguments.steps), "bare": bare_steps(run, arguments.steps)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds + 1):
        for name, go in sides.items():
            start = time.process_time() if arguments.device == "cpu" else time.perf_counter()
            go()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            end = time.process_time() if arguments.device == "cpu" else time.perf_counter()
            taken[name].append(1e3 * (end - start) / arguments.steps)
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first warms up
    unit = "processor ms" if arguments.device == "cpu" else "ms"
    print(f"torch {torch.__version__}, 1 thread, {machine(arguments.device)}; {arguments.method}")
    print(f"engine {medians['engine']:.1f}, bare loop {medians['bare']:.1f} {unit} a step (median)")
    print(f"ratio {medians['engine'] / medians['bare']:.3f} (accepted: {ACCEPTED})")


if __name__ == "__main__":
    main()
