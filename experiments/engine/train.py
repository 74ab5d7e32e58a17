"""The one training loop. It may be killed at any instruction and continues from its last checkpoint, bit for
bit.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from experiments.engine import checkpoint
from experiments.engine.distributed import Group
from experiments.engine.network import Network
from experiments.engine.spec import Training
from experiments.engine.watch import Stopped, Watch

# What a kill costs is a round (an epoch) at most, and at most `Watch.checkpoint_seconds` of a long one. After
# a round shorter than this it is not worth a file.
ROUND_CHECKPOINT_SECONDS = 5.0


class Task(Protocol):
    """A training between two steps; `state_dict` is all of it."""

    group: Group
    network: Network
    steps: int  # in a round
    round: int
    step: int  # within the round
    history: list[dict[str, float]]

    def begin_round(self) -> None:
        """Called before the first step of each round, and when one is resumed."""
        ...

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """What is left of this round."""
        ...

    def take_step(self, *batch: Tensor) -> None: ...

    def end_round(self) -> None:
        """Look at the network, note what is seen in `history`, go on to the next round; Diverged if a loss
        was not finite.
        """
        ...

    def news(self) -> dict[str, Any]:
        """`at`: where the training is, `fraction` of it done, `loss` of late, and what else is `shown`."""
        ...

    def facts(self) -> dict[str, Any]:
        """What else the record says."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Under several processes called by all of them: a method may have to gather its parts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Clock:
    """Seconds of work on this run over all its attempts, and when something was last done."""

    def __init__(self, already: float) -> None:
        self._start = time.monotonic() - already
        self._last_news = self._last_checkpoint = time.monotonic()
        self._steps, self._planned = 0, 1  # taken since the last look, and to be taken until the next

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def news_due(self, interval: float) -> bool:
        due = time.monotonic() - self._last_news >= interval
        if due:
            self._last_news = time.monotonic()
        return due

    def planned_look(self, group: Group, interval: float) -> bool:
        """Under several processes: whether the steps until the next look are taken.

        How many those are, about `interval` seconds of them, all learn from the leading process at the look
        before: to ask it at every step would make every step wait for its answer.
        """
        self._steps += 1
        if self._steps < self._planned:
            return False
        group.wait()
        seconds = time.monotonic() - self._last_news
        self._planned = group.told(max(1, int(interval * self._steps / max(seconds, 1e-9))))
        self._steps, self._last_news = 0, time.monotonic()
        return True

    def checkpoint_due(self, interval: float) -> bool:
        due = time.monotonic() - self._last_checkpoint >= interval
        if due:
            self._last_checkpoint = time.monotonic()
        return due


def train(spec: Training, folder: Path, group: Group, watch: Watch) -> dict[str, Any]:
    """Train `spec`, or what is left of it, in `folder`; returns what its record says.

    The last checkpoint holds the trained network. Raises Diverged, or Stopped when `watch.stop` asked for it.
    """
    task = spec.begin(group)
    clock = Clock(_resume(task, spec, folder, watch))

    def save() -> None:
        state = {**task.state_dict(), "seconds": clock.seconds()}
        if group.leads:
            # A round's end counts as a step: a checkpoint after it is newer than one after its last step.
            checkpoint.save(folder, spec.id, task.round * (task.steps + 1) + task.step, state)

    while task.round < spec.rounds:
        task.begin_round()
        for batch in task.batches():
            task.take_step(*batch)
            if not look_up(task, clock, watch):
                continue
            watch.progress({**task.news(), "seconds": clock.seconds()})
            if group.agree(watch.stop()):
                save()
                raise Stopped
            if group.agree(clock.checkpoint_due(watch.checkpoint_seconds)):
                save()
        task.end_round()
        if task.round < spec.rounds and group.agree(
            clock.checkpoint_due(min(watch.checkpoint_seconds, ROUND_CHECKPOINT_SECONDS))
        ):
            save()
    save()
    return {
        "history": task.history,
        "seconds": clock.seconds(),
        "steps": spec.rounds * task.steps,
        "parameters": sum(p.numel() for p in task.network.model.parameters()),
        **task.facts(),
    }


def _resume(task: Task, spec: Training, folder: Path, watch: Watch) -> float:
    """Put `task` where the last checkpoint left it; the seconds until then.

    What was read is gone when this returns: it is as large as all that the training keeps.
    """
    saved = checkpoint.load(folder, spec.id, warn=watch.warn)
    if saved is None:
        return 0.0
    task.load_state_dict(saved)
    return saved["seconds"]


def look_up(task: Task, clock: Clock, watch: Watch) -> bool:
    """Whether to look at clock and signals after this step: the same answer on every process."""
    if task.group.world > 1:
        return clock.planned_look(task.group, watch.progress_seconds)
    return clock.news_due(watch.progress_seconds)
