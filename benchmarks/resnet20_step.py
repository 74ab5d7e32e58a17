"""Time of one ResNet-20 training step: our filter response norm against the plain formula in eager PyTorch.

    python -m benchmarks.resnet20_step [--threads 1] [--device cpu|cuda] [--rounds 20]

The peer is the network as one would write it: the formula left to autograd, images in torch's default memory
format. Ours takes the images as the data loader hands them out, channels last. A step is zero_grad, forward,
backward and SGD on 50 images of 32x32. The candidates take turns, so that other load on the machine falls on
all of them; on a CPU, seconds of the processor are counted besides those of the clock, as they hardly see it.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.models import MODELS
from experiments.models.frn import FilterResponseNorm, filter_response_norm_reference

BATCH_SIZE = 50  # Sec. C.2


class PlainFilterResponseNorm(FilterResponseNorm):
    """The same layer without our implementation."""

    def forward(self, x: Tensor) -> Tensor:
        return filter_response_norm_reference(x, self.gamma, self.beta, self.tau, self.eps)


def resnet20(device: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet20"].build(10).to(device)


def plain_resnet20(device: str) -> nn.Module:
    network = resnet20(device)
    for name, module in list(network.named_modules()):
        if isinstance(module, FilterResponseNorm):
            plain = PlainFilterResponseNorm(module.gamma.numel(), module.eps)
            network.set_submodule(name, plain.to(device))
    return network


def training_step(
    network: Callable[[Tensor], Tensor], weights: list[Tensor], images: Tensor
) -> Callable[[], float]:
    """A function that takes one step and returns the loss before it."""
    labels = torch.arange(BATCH_SIZE, device=images.device) % 10
    optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for the device

    return step


def candidates(device: str) -> dict[str, Callable[[], float]]:
    images = torch.randn(BATCH_SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(device)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    plain, ours = plain_resnet20(device), resnet20(device)
    steps = {
        "plain": training_step(plain, list(plain.parameters()), images),
        "ours": training_step(ours, list(ours.parameters()), channels_last),
    }
    if device == "cuda":  # on a CPU torch.compile needs a C++ compiler and minutes, and was slower than ours
        compiled = resnet20(device)
        steps["ours, compiled"] = training_step(
            torch.compile(compiled), list(compiled.parameters()), channels_last
        )
    return steps


def clock_and_processor_ms(step: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter(), time.process_time()
    step()
    return 1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1])


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{device} ({name}), {platform.platform()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, threads {arguments.threads}, {machine(arguments.device)}")

    steps = candidates(arguments.device)
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}  # also warms up
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(clock_and_processor_ms(step))

    title = f"median of {arguments.rounds}"
    print(f"{title:20s}{'clock ms':>10s}{'ratio':>7s}{'cpu ms':>10s}{'ratio':>7s}")
    peer = [statistics.median(column) for column in zip(*times["plain"], strict=True)]
    for name, taken in times.items():
        clock, processor = (statistics.median(column) for column in zip(*taken, strict=True))
        print(
            f"{name:20s}{clock:10.1f}{peer[0] / clock:7.2f}{processor:10.1f}{peer[1] / processor:7.2f}"
            f"   loss of the third step {losses[name][-1]:.5f}"
        )


if __name__ == "__main__":
    main()
