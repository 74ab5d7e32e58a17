"""Time of the experiments' evaluation with posterior draws against as many plain passes of the network.

    python -m benchmarks.evaluation_draws [--device cpu|cuda] [--draws 16] [--images 1024] [--rounds 5]

ResNet-20 on test images of CIFAR-10, IVON, mini-batches of 512 with new draws each, as in the tables. The
peers run the same network with one set of weights over batches that lie ready, without softmax or average: in
the pieces in which the engine passes them on a CPU, and whole. All take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch

from benchmarks.resnet20_step import machine
from experiments.data import open_split
from experiments.data.batches import DeviceImages
from experiments.engine.distributed import single
from experiments.engine.evaluate import predict
from experiments.engine.network import build
from experiments.engine.spec import EvalSpec
from experiments.engine.watch import Watch
from experiments.image_classification.grid import training

ACCEPTED = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    group = single(torch.device(arguments.device))
    spec = EvalSpec(train=training("cifar10", "resnet20", "ivon", 0, "paper"), draws=arguments.draws)
    network = build(spec.train, group, train_size=spec.train.train_size)
    network.model.train()
    images, labels = next(open_split("cifar10", "train", device=group.device).epoch(0, 0, 50))
    for _ in range(2):  # a posterior, and weights that are no longer those of the start
        with network.method.optimizer.sampled_params(train=True):  # type: ignore[attr-defined]
            torch.nn.functional.cross_entropy(network.logits(images), labels).backward()
        network.method.optimizer.step()
    network.model.eval()
    data = open_split("cifar10", "test", device=group.device)
    assert isinstance(data, DeviceImages)
    ready = list(islice(data.batches(spec.batch_size), -(-arguments.images // spec.batch_size)))

    class Ready:
        """The batches that lie ready, as a data set."""

        def __len__(self) -> int:
            return sum(len(labels) for _, labels in ready)

        def batches(self, _size: int):
            return iter(ready)

    def engine() -> None:
        predict(spec, network, Ready(), Watch())  # type: ignore[arg-type]

    @torch.no_grad()
    def passes(forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for images, _ in ready:
            for _ in range(arguments.draws):
                forward(images)

    contenders: dict[str, Callable[[], None]] = {
        "engine": engine,
        "passes": lambda: passes(network.evaluated),
        "whole batches": lambda: passes(network.logits),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    now = time.process_time if arguments.device == "cpu" else time.perf_counter
    for _ in range(arguments.rounds + 1):
        for name, go in contenders.items():
            start = now()
            go()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            taken[name].append(now() - start)
    counted = {name: times[1:] for name, times in taken.items()}  # the first round warms up
    seconds = {name: statistics.median(times) for name, times in counted.items()}
    print(
        f"torch {torch.__version__}, {machine(arguments.device)}; {len(Ready())} images, {spec.draws} draws"
    )
    print(", ".join(f"{name} {time:.2f} s" for name, time in seconds.items()))
    for peer in ("passes", "whole batches"):
        ratios = sorted(a / b for a, b in zip(counted["engine"], counted[peer], strict=True))
        print(f"engine / {peer} {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    print(f"accepted: engine / passes <= {ACCEPTED}")


if __name__ == "__main__":
    main()
