"""A small smooth network on the handwritten digits, for every method alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baselines import METHODS
from baselines.method import Loss, Method
from experiments.data import open_split

# Rates at which the small network learns within seconds; a method that is not named has to learn at 0.02.
LEARNING_RATES = {
    "sgd": 0.2,
    "adahessian": 0.2,
    "ivon": 1.0,
    "vogn": 0.01,
    "ogn": 0.01,
    "mc_dropout": 0.2,
    "swag": 0.2,
}
TRAIN_SIZE, BATCH = 1000, 100


def build(name: str, *, seed: int = 0, frozen: tuple[str, ...] = ()) -> tuple[nn.Module, Method]:
    """The same weights every time, some of them frozen, and the method with its defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 4, 10)
        )
    model.to(memory_format=torch.channels_last)
    model.dropout_sites = lambda: ["1"]  # MC-dropout's masks: behind the tanh
    for parameter in frozen:
        model.get_parameter(parameter).requires_grad_(False)
    settings = METHODS[name](lr=LEARNING_RATES.get(name, 0.02))
    return model, settings.build(model, train_size=TRAIN_SIZE, seed=seed)


@pytest.fixture
def built() -> Callable[..., tuple[nn.Module, Method]]:
    return build


@pytest.fixture(scope="session")
def batches() -> Callable[[int, int], list[tuple[Tensor, Tensor]]]:
    """`batches(first, last)`: mini-batches of the digits, always the same ones under the same number."""
    data = open_split("digits", "train", device="cpu")

    def take(first: int, last: int) -> list[tuple[Tensor, Tensor]]:
        steps = data.steps(BATCH)
        return [
            next(data.epoch(0, number // steps, BATCH, start=number % steps)) for number in range(first, last)
        ]

    return take


@pytest.fixture
def run() -> Callable[..., list[float]]:
    """Train on these batches; the losses."""

    def train(model: nn.Module, method: Method, chosen: list[tuple[Tensor, Tensor]]) -> list[float]:
        return [method.step(Loss(model, images, labels)).item() for images, labels in chosen]

    return train
