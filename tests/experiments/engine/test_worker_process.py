"""The worker process: specifications in, a JSON line for all that happens out."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import pytest

from experiments.engine import lock, worker
from experiments.engine.execute import Outcome, execute
from experiments.engine.record import Store
from experiments.engine.watch import Watch


@dataclass
class Ends:
    """The launcher's ends of a worker's pipes."""

    pid: int
    input: TextIO
    output: TextIO
    _status: int | None = None

    def give(self, spec) -> None:
        self.input.write(json.dumps(spec.model_dump(mode="json")) + "\n")
        self.input.flush()

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for line in self.output:
            message = json.loads(line)
            if wanted(message):
                return message
        raise AssertionError("the worker left without the word")

    def end(self) -> dict[str, Any]:
        return self.until(lambda message: "end" in message)

    def status(self) -> int:
        """Its exit status, once it has left."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


@pytest.fixture
def working(store, in_child, monkeypatch):
    """A worker, forked from here with everything imported; it takes about as long as the runs."""
    to_worker, from_worker = os.pipe(), os.pipe()

    def work() -> None:
        os.dup2(to_worker[0], 0)
        os.dup2(from_worker[1], 1)
        for descriptor in (*to_worker, *from_worker):
            os.close(descriptor)
        sys.stdin = os.fdopen(0)
        sys.argv = ["worker", "--root", str(store.root), "--device", "cpu", "--checkpoint-seconds", "600"]
        worker.main()

    pid = in_child(work)
    os.close(to_worker[0])
    os.close(from_worker[1])
    with os.fdopen(from_worker[0]) as output:
        ends = Ends(pid, os.fdopen(to_worker[1], "w"), output)
        yield ends
        ends.input.close()
        # It leaves when its input ends, whatever it is doing.
        ends.status()


def result(store: Store, spec) -> str:
    found = dict(store.done(spec)["result"])
    del found["seconds"]
    return repr(found)


def test_runs_one_after_another_with_the_bits_of_any_other_process(working, store, tiny, cpu, tmp_path):
    other = Store(tmp_path / "here")
    for spec in (tiny("ivon"), tiny("sgd"), tiny("ivon", lr=1e30, warmup_epochs=0)):
        working.give(spec)
        message = working.end()
        assert execute(spec, other, cpu, Watch()).end == message["end"]
        assert (message["end"] == "done") == (not message["why"]) == (store.done(spec) is not None)
        if message["end"] == "done":
            assert result(store, spec) == result(other, spec)


def test_fp32_is_fp32(working, store, tiny):
    """On GPUs, too, where convolutions take TF32 unless they are told not to."""
    spec = tiny("sgd", epochs=1)
    working.give(spec)
    working.end()
    machine = store.done(spec)["machine"]
    assert (machine["tf32"], machine["threads"]) == (False, 1)


def test_term_stops_at_a_checkpoint(working, store, tiny):
    spec = tiny(epochs=1000)
    working.give(spec)
    working.until(lambda message: "news" in message)
    os.kill(working.pid, signal.SIGINT)  # Ctrl-C reaches the whole terminal; the launcher sends what counts
    os.kill(working.pid, signal.SIGTERM)
    assert working.end()["end"] == "stopped"
    assert list(store.folder(spec).glob("checkpoint-*.pt"))
    assert not store.is_over(spec)
    assert working.status() == 128 + signal.SIGTERM


def test_term_ends_a_worker_that_has_nothing_to_do(working, store, tiny):
    working.give(tiny())
    working.end()
    os.kill(working.pid, signal.SIGTERM)
    assert working.status() == 128 + signal.SIGTERM


def test_end_of_the_work_is_no_failure(working, store, tiny):
    working.give(tiny())
    working.end()
    working.input.close()
    assert working.status() == 0


def test_dies_with_its_launcher_and_frees_the_run(working, store, tiny):
    spec = tiny(epochs=1000)
    working.give(spec)
    working.until(lambda message: "news" in message)
    assert lock.is_claimed(store.folder(spec))
    working.input.close()
    deadline = time.monotonic() + 30
    while lock.is_claimed(store.folder(spec)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not store.is_over(spec)


@pytest.fixture
def torchrun(monkeypatch, tiny, tmp_path):
    """`torchrun("exit 3", stop)`: a shared training whose processes do this and say no more."""

    def start(script: str, stop: threading.Event) -> Outcome:
        real = subprocess.Popen
        monkeypatch.setattr(
            worker.subprocess, "Popen", lambda _command, **options: real(["sh", "-c", script], **options)
        )
        options = argparse.Namespace(root=tmp_path, device="cpu", processes=2, checkpoint_seconds=600.0)
        return worker._torchrun(tiny(), options, lambda message: None, stop)

    return start


def test_shared_training_that_dies_without_a_word_takes_its_worker_along(torchrun, in_child):
    """The launcher then tries again, as after the death of any worker."""
    child = in_child(lambda: torchrun("exit 0", threading.Event()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_shared_training_that_had_to_be_killed_is_stopped(torchrun):
    stop = threading.Event()
    stop.set()
    assert torchrun("exec sleep 60", stop).end == "stopped"


def test_shared_training_has_time_for_its_last_checkpoint(torchrun, tmp_path):
    """Torchrun reads it when it is started; before torch 2.12 it gives 30 s whatever it is told."""
    said = '{"end": "done", "why": ""}'
    script = f"echo $TORCH_ELASTIC_SHUTDOWN_TIMEOUT > {tmp_path}/seconds; echo '{said}'"
    assert torchrun(script, threading.Event()).end == "done"
    assert (tmp_path / "seconds").read_text() == "600\n"


def test_run_of_another_process_is_busy(working, store, tiny):
    spec = tiny()
    with lock.claim(store.folder(spec)):
        working.give(spec)
        assert working.end()["end"] == "busy"
    working.give(spec)
    assert working.end()["end"] == "done"
