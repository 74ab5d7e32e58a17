"""From a specification to GPT-2, the method that trains it, and its loss in the precision of the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from baselines.method import Method
from experiments.engine.distributed import Group
from experiments.engine.spec.language import LanguageSpec
from experiments.gpt2 import sharding
from experiments.models.gpt2.network import GPT2, decayed, loss


class NextTokenLoss(nn.Module):
    """From windows (B, T + 1) of tokens to the mean cross entropy in nats; both compile as one."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return loss(self.model(tokens[:, :-1]), tokens[:, 1:])


@dataclass(frozen=True)
class LanguageModel:
    """GPT-2 and what trains it. `loss` and `token_nll` compute in the precision of the run."""

    model: GPT2
    method: Method
    loss: Callable[[Tensor], Tensor]  # windows (B, T + 1) -> mean cross entropy in nats
    apart: Callable[[], AbstractContextManager[Any]]  # gradients stay on their process within
    precision: Callable[[], AbstractContextManager[Any]]

    def token_nll(self, windows: Tensor) -> Tensor:
        """Negative log-likelihood of each token after the first: windows (B, T + 1) -> float32 (B, T)."""
        with self.precision():
            logits = self.model(windows[:, :-1])
        sharding.release(self.model)  # the next draw is of the weights as they are divided
        return nn.functional.cross_entropy(logits.float().mT, windows[:, 1:], reduction="none")

    def state_dict(self) -> dict[str, Any]:
        """To be called by all processes together: it has the whole of what they share."""
        return sharding.gathered({"model": self.model.state_dict(), "method": self.method.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sharding.load_model(self.model, state["model"])
        self.method.load_state_dict(sharding.divided(state["method"], self.method.optimizer))


def build(spec: LanguageSpec, group: Group, *, vocabulary: int, train_tokens: int) -> LanguageModel:
    """The freshly initialised network; the same weights on every process and device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)  # torch's initialisers know only the global stream
        model = GPT2(spec.size_for(vocabulary), checkpointing=spec.checkpointing)
    model.to(group.device)
    if spec.precision == "bf16-weights":
        model.to(torch.bfloat16)
    divided = spec.sharded and group.world > 1
    if divided:
        sharding.shard(model)  # compiled block by block, as gathering cannot be
    matrices, others = decayed(model)
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    method = spec.method.build(model, train_size=train_tokens, seed=spec.seed, groups=groups)

    precision = partial(
        torch.autocast, group.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16"
    )
    forward: Any = NextTokenLoss(model)
    if group.device.type == "cuda" and not divided:
        forward = torch.compile(forward)
    apart: Callable[[], AbstractContextManager[Any]] = nullcontext
    if group.world > 1 and not divided and not method.reduces_gradients:
        forward = DistributedDataParallel(forward)
        apart = forward.no_sync

    def mean_loss(windows: Tensor) -> Tensor:
        with precision():
            return forward(windows)

    return LanguageModel(model, method, mean_loss, apart, precision)
