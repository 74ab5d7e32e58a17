"""The training of a language model between two steps."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from baselines.method import Loss
from experiments.data.text.windows import Tokens, open_tokens
from experiments.engine.distributed import Group
from experiments.engine.machine import machine_facts
from experiments.engine.spec.language import LanguageSpec
from experiments.engine.watch import Diverged
from experiments.errors import RunError
from experiments.gpt2.network import LanguageModel, build
from experiments.gpt2.peak import peak_flops
from experiments.gpt2.schedule import lr_factor

# Every run and every look is judged on the same windows, so that differences are not of the windows.
JUDGED_WINDOWS = 2357  # the seed of their places


class LanguageTraining:
    """A `Task` of the training loop; a round ends with a look at the validation text, at the mean."""

    def __init__(self, spec: LanguageSpec, group: Group) -> None:
        self.spec, self.group = spec, group
        self.text = open_tokens(spec.corpus, "train")
        self.judged = open_tokens(spec.corpus, "val")
        self.network = build(spec, group, vocabulary=self.text.vocabulary, train_tokens=self.text.count)
        rows = spec.batch_size // group.world
        micro = min(spec.micro_batch, rows)
        if why_not := spec.not_shared_by(group.world):
            raise RunError(f"{group.world} processes: {why_not}")
        self.micro_batches = rows // micro
        self.rows = (group.rank * rows, (group.rank + 1) * rows)
        self.steps = spec.eval_every
        self.round = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.losses = torch.zeros(self.steps, device=group.device)  # of this round; see ImageTraining
        self.seconds: list[float] = []  # of each round's training, without the look at its end
        self._before = 0.0  # seconds of this round until its clock last stood still
        self._since: float | None = None  # when it was started again; None: it stands

    def state_dict(self) -> dict[str, Any]:
        self._stop_clock()  # writing a checkpoint is not training
        return {
            "network": self.network.state_dict(),
            "round": self.round,
            "step": self.step,
            "history": self.history,
            "losses": self.group.total(self.losses.clone()) / self.group.world,
            "round_seconds": self.seconds,
            "seconds_of_round": self._before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.round, self.step, self.history = state["round"], state["step"], state["history"]
        # What all processes saw is the leading one's from here on: the sums over them stay the same.
        self.losses.copy_(state["losses"] * self.group.world * int(self.group.leads))
        self.seconds, self._before = state["round_seconds"], state["seconds_of_round"]

    def begin_round(self) -> None:
        self.network.method.begin_epoch(self.round, self.spec.rounds, self.steps)
        self.network.model.train()

    def batches(self) -> Iterator[tuple[Tensor]]:
        spec, (first, last) = self.spec, self.rows
        for step in range(self.round * self.steps + self.step, (self.round + 1) * self.steps):
            self._start_clock()
            yield (
                self.text.batch(
                    spec.seed,
                    step,
                    spec.batch_size,
                    spec.window,
                    first=first,
                    last=last,
                    device=self.group.device,
                ),
            )

    def take_step(self, windows: Tensor) -> None:
        spec, network = self.spec, self.network
        factor = lr_factor(
            self.round * self.steps + self.step,
            warmup_steps=spec.warmup_steps,
            train_steps=spec.train_steps,
        )
        for group in network.method.optimizer.param_groups:
            group["lr"] = spec.method.lr * factor
        loss = Loss(
            network.loss,
            windows,
            windows,
            criterion=_itself,
            precision=network.precision,
            micro_batches=self.micro_batches,
            max_grad_norm=spec.max_grad_norm or math.inf,
            apart=network.apart,
        )
        self.losses[self.step] = network.method.step(loss)
        self.step += 1

    def running(self) -> float:
        """Mean loss (nats) of this round so far; Diverged if one was not finite."""
        losses = self.group.total(self.losses[: self.step].clone()) / self.group.world
        finite = losses.isfinite()
        if not finite.all():
            raise Diverged(self.round, int((~finite).nonzero()[0]))
        return losses.double().mean().item()

    def end_round(self) -> None:
        train_nll = self.running()  # waits for the device: its last steps count
        self._stop_clock()
        self.seconds.append(self._before)
        self._before = 0.0
        nll = validation_nll(self.network, self.judged, self.spec, self.group)
        if not math.isfinite(nll):
            raise Diverged(self.round, self.steps)
        step = (self.round + 1) * self.steps
        tokens = step * self.spec.tokens_per_step
        self.history.append({"step": step, "tokens": tokens, "train_nll": train_nll, "nll": nll})
        self.round, self.step = self.round + 1, 0

    def news(self) -> dict[str, Any]:
        done = self.round * self.steps + self.step
        nll = self.running()
        return {
            "at": f"step {done}/{self.spec.train_steps}",
            "fraction": done / self.spec.train_steps,
            "loss": nll,
            "shown": [f"perplexity {math.exp(min(nll, 99.0)):.1f}"],
        }

    def facts(self) -> dict[str, Any]:
        spec, size = self.spec, self.network.model.size
        speed = spec.train_steps * spec.tokens_per_step / sum(self.seconds)
        peak = peak_flops(machine_facts(self.group.device)["device"], spec.precision)
        return {
            "corpus": self.text.fingerprint,
            "train_tokens": self.text.count,
            "round_seconds": self.seconds,
            "tokens_per_second": speed,
            "mfu": speed * size.flops_per_token / (peak * self.group.world) if peak else None,
        }

    def _start_clock(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def _stop_clock(self) -> None:
        if self._since is not None:
            self._before += time.monotonic() - self._since
            self._since = None


def _itself(loss: Tensor, _targets: Tensor) -> Tensor:
    """The network gives the loss, compiled as one with it."""
    return loss


@torch.no_grad()
def validation_nll(network: LanguageModel, text: Tokens, spec: LanguageSpec, group: Group) -> float:
    """Mean cross entropy (nats a token) at the mean of the posterior; each process takes its share."""
    network.model.eval()
    total = torch.zeros((), dtype=torch.float64, device=group.device)
    with network.method.draw(0, torch.Generator(group.device)):
        for first in range(0, spec.eval_batches, group.world):
            # As many passes on every process, as divided weights are gathered by all of them together.
            number = min(first + group.rank, spec.eval_batches - 1)
            windows = text.batch(JUDGED_WINDOWS, number, spec.micro_batch, spec.window, device=group.device)
            nll = network.token_nll(windows).double().mean()
            total += nll if number == first + group.rank else 0.0
    return group.total(total).item() / spec.eval_batches
