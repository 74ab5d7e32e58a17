"""A run that is killed again and again, also in the middle of a write, ends with the same bits."""

import os
import random
import signal
import time
from functools import partial

import pytest

from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec
from experiments.engine.watch import Watch

# Looks and writes at every step, so that there is much to be hit.
BUSY = Watch(progress_seconds=0.0, checkpoint_seconds=1e-9, warn=pytest.fail)


def result(store: Store, spec) -> str:
    found = dict(store.done(spec)["result"])
    del found["seconds"]
    return repr(found)


def run_all(specs, store: Store, cpu) -> None:
    for spec in specs:
        assert execute(spec, store, cpu, BUSY).end == "done"


def hidden(store: Store) -> list[str]:
    return [path.name for path in store.root.rglob(".*.tmp")]


@pytest.fixture
def specs(tiny):
    train = tiny("ivon")
    return [train, EvalSpec(train=train, draws=2)]


@pytest.fixture
def undisturbed(specs, cpu, tmp_path) -> list[str]:
    store = Store(tmp_path / "undisturbed")
    run_all(specs, store, cpu)
    return [result(store, spec) for spec in specs]


def test_killed_at_its_writes(specs, undisturbed, store, cpu, in_child, die_at_call):
    """Every attempt gets a little further: the first dies at its first write, and so on."""

    def attempt(number: int) -> None:
        die_at_call(number, ("fsync", "replace", "link", "unlink"))
        run_all(specs, store, cpu)

    deaths = 0
    while os.WIFSIGNALED(os.waitpid(in_child(partial(attempt, deaths + 1)), 0)[1]):
        deaths += 1
        assert (
            len(hidden(store)) <= 2
        )  # what the last attempts left in the run's folder and beside its record
    assert deaths > 8
    assert [result(store, spec) for spec in specs] == undisturbed
    assert store.load(specs[0])["machine"]["attempts"] > 4
    kept = sorted(path.name for path in store.folder(specs[0]).iterdir() if "checkpoint" not in path.name)
    assert kept == ["data.json", "lock", "log.jsonl", "progress.json"]
    assert len(list(store.folder(specs[0]).glob("*checkpoint*"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_killed_at_random_moments(round_, specs, undisturbed, store, cpu, in_child):
    moments = random.Random(round_)
    deaths = 0
    for _ in range(200):
        pid = in_child(lambda: run_all(specs, store, cpu))
        deadline = time.monotonic() + moments.uniform(0.05, 1.0)
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.001)
        else:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert status == 0
            break
        deaths += 1
    assert deaths > 2
    assert [result(store, spec) for spec in specs] == undisturbed
    assert len(hidden(store)) <= 1
