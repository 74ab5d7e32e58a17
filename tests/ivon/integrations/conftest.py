"""The task that every integration trains, and the plain loop that each must equal.

`ranks.py` imports this file, too: the processes of the distributed tests train the same task.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

import contextlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ivon import IVON

FEATURES, CLASSES, EXAMPLES, BATCH = 6, 3, 48, 16
STEPS = 12  # four epochs
Batch = tuple[Tensor, Tensor]


class Task:
    """Three classes of 48 points, which a network of one hidden layer learns in a few steps."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        rng = torch.Generator().manual_seed(0)
        self.dtype = dtype
        self.inputs = torch.randn(EXAMPLES, FEATURES, generator=rng, dtype=torch.float64).to(dtype)
        teacher = torch.randn(FEATURES, CLASSES, generator=rng, dtype=torch.float64).to(dtype)
        self.labels = (self.inputs @ teacher).argmax(dim=1)

    def model(self, *between: nn.Module) -> nn.Sequential:
        """Always the same weights; `between` comes before the last layer."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layers = [nn.Linear(FEATURES, 10), nn.Tanh(), *between, nn.Linear(10, CLASSES)]
        return nn.Sequential(*layers).to(self.dtype)

    def optimizer(self, params: Any, **options: Any) -> IVON:
        """Always the same noise. The Hessian moves by a tenth of the way in a step."""
        settings = {"lr": 1.0, "ess": 300.0, "hess_init": 0.3, "beta2": 0.9, **options}
        optimizer = IVON(params.parameters() if isinstance(params, nn.Module) else params, **settings)
        optimizer.seed(3)
        return optimizer

    def batch(self, k: int) -> Batch:
        """The k-th batch, over and over the data."""
        which = slice(k * BATCH % EXAMPLES, k * BATCH % EXAMPLES + BATCH)
        return self.inputs[which], self.labels[which]

    def loss(self, model: Callable[[Tensor], Tensor], batch: Batch | None = None) -> Tensor:
        """Mean cross-entropy of a batch, or of all data."""
        inputs, labels = batch or (self.inputs, self.labels)
        return nn.functional.cross_entropy(model(inputs), labels)

    def train(
        self,
        model: nn.Module,
        optimizer: IVON,
        steps: Iterable[int] = range(STEPS),
        *,
        draws: int = 1,
        before_step: Callable[[], object] = lambda: None,
        after_step: Callable[[], object] = lambda: None,
    ) -> None:
        """The plain loop; with several draws the batch is cut into as many equal micro-batches."""
        for k in steps:
            inputs, labels = self.batch(k)
            for micro_batch in zip(inputs.chunk(draws), labels.chunk(draws), strict=True):
                with optimizer.sampled_params(train=True):
                    self.loss(model, micro_batch).backward()
            before_step()
            optimizer.step()
            after_step()

    def trained(self, **options: Any) -> tuple[nn.Sequential, IVON]:
        """A model and its optimizer after the plain loop."""
        model = self.model()
        optimizer = self.optimizer(model, **options)
        self.train(model, optimizer)
        return model, optimizer

    @staticmethod
    def assert_same(left: IVON, right: IVON, **tolerances: float) -> None:
        """The same posterior; bit for bit unless `atol` and `rtol` are given."""
        torch.testing.assert_close(
            posterior(left), posterior(right), **{"atol": 0.0, "rtol": 0.0, **tolerances}
        )

    @torch.no_grad()
    def assert_learned(self, model: nn.Module, optimizer: IVON, at_most: float = 0.5) -> None:
        """The loss, 1.2 at first, is below `at_most`, and each parameter's Hessian has moved.

        After the plain loop the loss is 0.17, and at most 0.29 with 60 seeds.
        """
        assert self.loss(model).item() < at_most
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param.requires_grad:
                    assert (optimizer.state[param]["hess"] != group["hess_init"]).any()


def posterior(optimizer: IVON) -> list[Tensor]:
    """The parameters, and Hessian, momentum and residual of each that has been drawn or trained."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [optimizer.state[param] for param in params if param in optimizer.state]
    values = [state[name] for state in states for name in ("hess", "momentum", "residual") if name in state]
    return [param.detach() for param in params] + values


@pytest.fixture
def task() -> Task:
    return Task()


@pytest.fixture
def task64() -> Task:
    """In float64, where other orders of summation do not show."""
    return Task(torch.float64)


@pytest.fixture(scope="session")
def library() -> Callable[[str], ModuleType]:
    """`library("peft")`: that library, or a skipped test. Imported on demand: each costs seconds."""

    def find(name: str) -> ModuleType:
        with contextlib.suppress(ImportError):
            from experiments.torchvision_guard import import_torchvision

            import_torchvision()  # all of these import it themselves
        return pytest.importorskip(name, reason=f"{name} is not installed")

    return find
