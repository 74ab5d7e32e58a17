"""Tiny runs on the handwritten digits, and child processes that may be killed."""

import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from baselines import METHODS
from experiments.engine import checkpoint
from experiments.engine.distributed import Group, single
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec


@pytest.fixture(autouse=True)
def _one_thread():
    """As the workers: the number of threads is part of a result's bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _die_at_call(number: int, names: tuple[str, ...]) -> None:
    calls = 0

    def deadly(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, deadly(getattr(os, name)))


@pytest.fixture
def die_at_call() -> Callable[[int, tuple[str, ...]], None]:
    """For a child process: SIGKILL in place of the `number`-th call to one of these functions of `os`."""
    return _die_at_call


@pytest.fixture
def cpu() -> Group:
    return single(torch.device("cpu"))


@pytest.fixture
def tiny() -> Callable[..., TrainSpec]:
    """`tiny("ivon", epochs=3)`: a training of 2 steps an epoch that takes half a second."""

    def make(method: str = "sgd", *, lr: float = 0.05, **changes: Any) -> TrainSpec:
        settings = {"dataset": "digits", "model": "resnet20", "width": 2, "epochs": 2, "warmup_epochs": 1}
        settings |= {"batch_size": 500, "curve_every": 1, "method": METHODS[method](lr=lr)}
        return TrainSpec(**{**settings, **changes})

    return make


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def last_state() -> Callable[[Path, TrainSpec], dict[str, Any]]:
    """The newest checkpoint of a run, flattened: a name for every number and tensor, without the seconds."""

    def load(folder: Path, spec: TrainSpec) -> dict[str, Any]:
        state = checkpoint.load(folder, spec.id, warn=pytest.fail)
        assert state is not None
        del state["seconds"]
        return dict(_flat("", state))

    return load


def _flat(name: str, value: Any):
    if isinstance(value, dict | list | tuple) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


@pytest.fixture
def assert_same_bits() -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def check(one: dict[str, Any], other: dict[str, Any]) -> None:
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = (
                torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
            )
            assert same, f"{name}: {value} and {other[name]}"

    return check


@pytest.fixture
def in_child() -> Callable[[Callable[[], Any]], int]:
    """Call something in a forked process; returns the process id, to be killed or waited for."""

    def start(action: Callable[[], Any]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    return start


@pytest.fixture
def together(in_child, tmp_path) -> Callable[..., None]:
    """`together(2, action)`: `action(group)` in so many processes that form a group; all have to end well."""
    meetings = iter(range(100))

    def start(world: int, action: Callable[[Group], None]) -> None:
        meeting = tmp_path / f"meeting{next(meetings)}"

        def member(rank: int) -> None:
            threading.Timer(60, lambda: os._exit(3)).start()  # a group that hangs
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
            action(Group(rank=rank, world=world, device=torch.device("cpu")))
            dist.destroy_process_group()

        members = [in_child(lambda rank=rank: member(rank)) for rank in range(world)]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in members] == [0] * world

    return start
