"""The local launcher with workers that misbehave. They speak the workers' protocol and need no PyTorch."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from experiments.engine import local, lock
from experiments.engine.local import Launcher, Options, default_jobs
from experiments.engine.spec import EvalSpec
from experiments.errors import UserError

WORKER = """
import hashlib, json, os, pathlib, signal, sys, time
root, plan = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def say(**message):
    print(json.dumps(message), flush=True)

for line in sys.stdin:
    spec = json.loads(line)
    name = hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
    what = spec["kind"] if spec["kind"] == "evaluate" else plan.get(str(spec["seed"]), "done")
    first = not (root / (name + ".seen")).exists()
    (root / (name + ".seen")).touch()
    with (root / "order").open("a") as order:
        order.write(spec["kind"] + " " + name + chr(10))
    if what == "die" or (what == "die once" and first):
        os._exit(7)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die in a word":
        os.write(1, b'{"end": "do')
        os._exit(0)
    if what == "busy once" and first:
        say(end="busy", why="")
        continue
    if what == "failed":
        say(end="failed", why="RuntimeError: no luck")
        continue
    if what == "until stopped":
        say(news={"fraction": 0.5})
        while not asked:
            time.sleep(0.01)
        say(end="stopped", why="")
        continue
    if what == "die when stopped":
        say(news={"fraction": 0.5})
        while not asked:
            time.sleep(0.01)
        os._exit(7)
    failure = {"reason": "loss is not finite", "epoch": 0, "step": 1} if what == "diverged" else None
    record = {"format": 1, "id": name, "spec": spec, "failure": failure, "result": {}, "machine": {}}
    (root / spec.get("experiment", "image_classification")).mkdir(exist_ok=True)
    whole = root / (name + ".part")  # the launcher may look at any time, and a real worker writes at once
    whole.write_text(json.dumps(record))
    whole.rename(root / "image_classification" / (name + ".json"))
    say(warn="a warning")
    if what == "done, then gone":
        os.close(0)  # nobody reads what the launcher writes next
    say(end="failed" if failure else "done", why=failure["reason"] if failure else "")
    if what == "done, then gone":
        os._exit(0)
"""


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.on_news = lambda: None

    def begin(self, spec) -> None:
        self.calls.append(("begin", spec.id))

    def news(self, spec, news) -> None:
        self.calls.append(("news", spec.id))
        self.on_news()

    def end(self, spec, why_failed) -> None:
        self.calls.append(("end", spec.id, why_failed))

    def stopped(self, spec) -> None:
        self.calls.append(("stopped", spec.id))

    def elsewhere(self, spec) -> None:
        self.calls.append(("elsewhere", spec.id))

    def warn(self, line) -> None:
        self.calls.append(("warn", line))

    def close(self) -> None:
        pass

    def of(self, kind: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.fixture
def launch(store, monkeypatch):
    """`launch(plan, jobs=1)`: a launcher whose workers do what the plan says for a seed."""
    store.root.mkdir()
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
    real = subprocess.Popen

    def make(plan: dict[int, str], jobs: int = 1, on_start=lambda: None) -> Launcher:
        def stub(command, **options):
            assert command[1:3] == ["-m", "experiments.engine.worker"]
            process = real([sys.executable, "-c", WORKER, str(store.root), json.dumps(plan)], **options)
            on_start()
            return process

        monkeypatch.setattr(local.subprocess, "Popen", stub)
        return Launcher(store, Options(jobs=jobs, device="cpu"), Recorder())

    return make


def order(store) -> list[str]:
    return (store.root / "order").read_text().splitlines()


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_run_once_and_evaluations_after_their_training(jobs, launch, store, tiny):
    trainings = [tiny(seed=seed) for seed in range(4)]
    looks = [EvalSpec(train=train, draws=draws) for train in trainings for draws in (0, 1)]
    launcher = launch({}, jobs)
    assert launcher.run([*looks, *trainings])  # in an unhelpful order
    assert launcher.failed == {}
    done = [line.split()[1] for line in order(store)]
    assert sorted(done) == sorted(spec.id for spec in (*trainings, *looks))
    for look in looks:
        assert done.index(look.id) > done.index(look.train.id)
    assert ("a warning",) in launcher.display.of("warn")


@pytest.mark.parametrize(("death", "how"), [("die", "exit status 7"), ("killed", "killed by signal 9")])
def test_run_whose_worker_dies_each_time_is_given_up(death, how, launch, store, tiny):
    bad, good = tiny(seed=1), tiny(seed=2)
    launcher = launch({1: death})
    assert launcher.run([bad, good])
    assert store.done(good)
    assert list(launcher.failed) == [bad.id]
    assert how in launcher.failed[bad.id]
    assert "worker.log" in launcher.failed[bad.id]
    assert sum(bad.id in line for line in order(store)) == 3
    assert [name for name, why in launcher.display.of("end") if why] == [bad.id]


def test_worker_that_dies_once_costs_an_attempt(launch, store, tiny):
    launcher = launch({1: "die once"})
    assert launcher.run([tiny(seed=1)])
    assert launcher.failed == {}
    assert store.done(tiny(seed=1))
    assert len(launcher.display.of("warn")) == 2  # that it died, and the stub's own


def test_worker_that_dies_in_the_middle_of_a_line(launch, store, tiny):
    launcher = launch({1: "die in a word"})
    assert launcher.run([tiny(seed=1), tiny(seed=2)])
    assert list(launcher.failed) == [tiny(seed=1).id]
    assert store.done(tiny(seed=2))


def test_worker_that_dies_between_two_runs(launch, store, tiny):
    """Then the launcher writes to a pipe that nobody reads; the run goes to another worker."""
    specs = [tiny(seed=seed) for seed in range(4)]
    launcher = launch(dict.fromkeys(range(4), "done, then gone"))
    assert launcher.run(specs)
    assert launcher.failed == {}
    assert all(map(store.done, specs))


@pytest.mark.parametrize("end", ["failed", "diverged"])
def test_evaluation_of_a_failed_training_is_not_run(end, launch, store, tiny):
    bad, good = tiny(seed=1), tiny(seed=2)
    looks = [EvalSpec(train=bad), EvalSpec(train=good)]
    launcher = launch({1: end})
    assert launcher.run([bad, good, *looks])
    assert list(launcher.failed) == [bad.id]
    assert store.done(looks[1])
    assert not store.is_over(looks[0])
    assert len(order(store)) == 3
    # A launcher that finds the failure's record does the same.
    if end == "diverged":
        assert launch({}).run([looks[0]])
        assert len(order(store)) == 3


def test_run_that_another_process_has_is_waited_for(launch, store, tiny):
    launcher = launch({1: "busy once"})
    assert launcher.run([tiny(seed=1)])
    assert launcher.display.of("elsewhere") == [(tiny(seed=1).id,)]
    assert store.done(tiny(seed=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_asks_the_workers_to_stop(number, launch, store, tiny):
    specs = [tiny(seed=seed) for seed in range(3)]
    before = signal.getsignal(number)
    launcher = launch(dict.fromkeys(range(3), "until stopped"), jobs=2)
    launcher.display.on_news = lambda: os.kill(os.getpid(), number)
    assert not launcher.run(specs)
    assert len(launcher.display.of("begin")) <= 2  # the third was never begun
    assert {name for (name,) in launcher.display.of("stopped")} <= {specs[0].id, specs[1].id}
    assert launcher.failed == {}
    assert signal.getsignal(number) is before


def test_signal_while_a_worker_starts_is_not_lost(launch, tiny):
    launcher = launch({1: "until stopped"}, on_start=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert not launcher.run([tiny(seed=1), tiny(seed=2)])


def test_run_whose_worker_dies_while_it_stops_is_not_over(launch, tiny):
    """A worker that is still starting knows no signal; nothing else is left to do here."""
    launcher = launch({1: "die when stopped"})
    launcher.display.on_news = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert not launcher.run([tiny(seed=1)])


def test_disk_without_locks_is_said_before_anything_starts(launch, tiny, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot be locked \(Function not implemented\).*--runs"):
        launch({}, on_start=pytest.fail).run([tiny()])


def test_nothing_to_do(launch):
    assert launch({}).run([])


def test_default_number_of_jobs_is_one_per_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8, 13}, raising=False)
    assert [default_jobs("cpu", processes) for processes in (1, 2, 5)] == [4, 2, 1]
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert default_jobs("cpu", 1) == 96
