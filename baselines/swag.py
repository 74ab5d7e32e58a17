"""SWAG (Maddox et al., 2019): a Gaussian fitted to the iterates of SGD at a constant learning rate."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from baselines.draws import flat, replaced
from baselines.method import Loss
from baselines.precision import as_statistic


class IterateGaussian:
    """Mean, variances and the last `rank` deviations of the iterates collected from parameters.

        swag = IterateGaussian(model.parameters())
        for epoch in range(200):
            ...  # an epoch of SGD, at a constant learning rate from epoch 160 on
            if epoch >= 160:
                swag.collect()
        with swag.sampled(generator):
            probabilities = model(inputs).softmax(-1)  # to be averaged over draws

    N(mean, (diag(variance) + D^T D / (K - 1)) / 2) with the K last deviations as the rows of D, each from the
    mean at its time. A network with batch norm needs `ivon.refresh_batch_norm` for every draw.
    """

    def __init__(self, params: Iterable[Tensor], rank: int = 20) -> None:
        self.params = [p for p in params if p.requires_grad]
        if not self.params or not rank >= 2:
            raise ValueError(
                f"SWAG needs trainable parameters and rank >= 2; got {len(self.params)} and {rank}"
            )
        self.rank = rank
        self.count = 0
        self.mean = self.squares = torch.empty(0)  # (P,): the mean, and squared distances from it, summed
        self.deviations = torch.empty(0)  # (rank, P), the oldest row overwritten next

    def collect(self) -> None:
        """Take the present values of the parameters into the statistics (Welford's recursion)."""
        values = flat(self.params)
        if self.count == 0:
            self.mean, self.squares = torch.zeros_like(values), torch.zeros_like(values)
            self.deviations = values.new_zeros(self.rank, len(values))
        self.count += 1
        distance = values - self.mean
        self.mean.add_(distance, alpha=1 / self.count)
        values -= self.mean
        self.squares.addcmul_(distance, values)
        self.deviations[(self.count - 1) % self.rank] = values

    @property
    def variance(self) -> Tensor:
        """Mean square minus squared mean of each entry (P,): never negative in this form."""
        return self.squares / self.count

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + sqrt(variance / 2) z1 + D^T z2 / sqrt(2 (K - 1)) with standard normals z1 (P,), z2 (K,).

        A single iterate has no spread: then it is the mean.
        """
        z1 = torch.empty_like(self.mean).normal_(generator=generator)
        drawn = torch.addcmul(self.mean, (self.variance / 2).sqrt_(), z1)
        kept = min(self.count, self.rank)
        if kept > 1:
            z2 = self.mean.new_empty(kept).normal_(generator=generator)
            drawn.addmv_(self.deviations[:kept].T, z2, alpha=(2 * (kept - 1)) ** -0.5)
        return drawn

    def sampled(self, generator: torch.Generator | None = None) -> AbstractContextManager[None]:
        """The parameters are a draw inside, and afterwards what they were."""
        self._check()
        return replaced(self.params, self.sample(generator))

    def averaged(self) -> AbstractContextManager[None]:
        """The parameters are the mean inside (stochastic weight averaging), and afterwards what they were."""
        self._check()
        return replaced(self.params, self.mean)

    def _check(self) -> None:
        if self.count == 0:
            raise RuntimeError("SWAG has no iterates yet: collect() them at a constant learning rate")

    def state_dict(self) -> dict[str, Any]:
        kept = self.deviations[: self.count]
        return {"count": self.count, "mean": self.mean, "squares": self.squares, "deviations": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; ValueError if that was another model or rank."""
        size = sum(p.numel() for p in self.params) if state["count"] else 0
        if state["mean"].numel() != size:
            raise ValueError(
                f"SWAG: the state is of {state['mean'].numel()} parameters, the model has {size}"
            )
        kept = min(state["count"], self.rank)
        if len(state["deviations"]) != kept:
            raise ValueError(
                f"SWAG: the state has {len(state['deviations'])} deviations of {state['count']} iterates, "
                f"rank {self.rank} needs {kept}"
            )
        self.count = state["count"]
        device = self.params[0].device
        self.mean, self.squares, deviations = (
            as_statistic(state[name]).to(device, copy=True) for name in ("mean", "squares", "deviations")
        )
        self.deviations = deviations.new_zeros(self.rank if self.count else 0, len(self.mean))
        self.deviations[: self.count] = deviations


class SWAG:
    """SGD, and `IterateGaussian` in a last phase of constant learning rate, behind the verbs of a method.

    The phase is the last `part` of the epochs, at least one. In it `collections` iterates are collected at
    even distances, the last one after the last step; in the paper's run of 40 such epochs at the end of each.
    Training goes on from the last iterate, while predictions, also the point estimate, are those of the
    Gaussian as soon as it has an iterate. Before, they are the network's.
    """

    reduces_gradients = False

    def __init__(
        self,
        gaussian: IterateGaussian,
        optimizer: torch.optim.Optimizer,
        *,
        lr: float,
        part: float,
        collections: int,
    ) -> None:
        self.gaussian, self.optimizer = gaussian, optimizer
        self._lr, self._part, self._collections = lr, part, collections
        self._phase = 0  # its length in steps; 0 outside
        self._steps = 0  # taken in the phase

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        length = max(1, round(self._part * epochs))
        self._phase = length * steps if epoch >= epochs - length else 0
        if self._phase:
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr

    def step(self, loss: Loss) -> Tensor:
        loss.check_undivided("SWAG")
        self.optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        self.optimizer.step()
        if self._phase:
            due = self._steps * self._collections // self._phase
            self._steps += 1
            if self._steps * self._collections // self._phase > due:
                self.gaussian.collect()
        return value.detach()

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        if self.gaussian.count == 0:
            return nullcontext()
        return self.gaussian.averaged() if k == 0 else self.gaussian.sampled(generator)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "gaussian": self.gaussian.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gaussian.load_state_dict(state["gaussian"])  # first, as it refuses what does not fit
        self.optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]
