"""When the processes of one training look at clock and signals, and on which devices they are."""

import os
from itertools import pairwise
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist

from experiments.engine import train
from experiments.engine.distributed import Group, join
from experiments.engine.watch import Watch


class Member(Group):
    """One of two processes; what the leading one says is in `said`."""

    said: ClassVar[list[int]] = []

    def told(self, number: int) -> int:
        if self.leads:
            self.said.append(number)
        return self.said[-1]


@pytest.mark.parametrize("seconds", [0.01, 0.3, 40.0])
def test_looks_are_as_many_steps_apart_as_the_leading_process_takes_in_a_second(seconds, monkeypatch):
    """A stop is heeded within a second, or a step if that takes longer, and asked for at no other step."""
    now = 0.0
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now))
    members = [Member(rank=rank, world=2, device=torch.device("cpu")) for rank in (0, 1)]
    tasks = [SimpleNamespace(group=member) for member in members]
    clocks = [train.Clock(0.0), train.Clock(0.0)]
    looked = []
    for step in range(1000):
        now += seconds * (50 if step == 0 else 1)  # the first one is slow: it compiles
        clocks[1]._last_news -= 0.1 * seconds  # another clock
        answers = [train.look_up(*pair, Watch()) for pair in zip(tasks, clocks, strict=True)]
        assert answers[0] == answers[1]
        looked += [step] if answers[0] else []
    apart = {second - first for first, second in pairwise(looked[3:])}
    most = max(1, round(1 / seconds))
    assert apart and apart <= {most, max(1, most - 1)}


def test_processes_on_cpus_leave_gpus_alone(in_child, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    place = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }
    for name, value in place.items():
        monkeypatch.setenv(name, value)

    def member() -> None:
        assert join("cpu").device == torch.device("cpu")
        assert dist.get_backend() == "gloo"

    assert os.waitpid(in_child(member), 0)[1] == 0
