"""The local launcher: worker processes on this machine share an artefact's unfinished runs."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from experiments.engine import lock, log
from experiments.engine.compiler_cache import guard_compiler_cache
from experiments.engine.gpus import share, visible_gpus
from experiments.engine.progress import Display
from experiments.engine.record import Store
from experiments.engine.spec import Spec

ATTEMPTS = 3  # of a run whose worker died under it, out of memory perhaps
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run; none of it changes a result."""

    jobs: int
    device: str  # "cpu" or "cuda"
    processes: int = 1  # of one training: data parallelism over this many GPUs
    checkpoint_seconds: float = 600.0
    patience: float = math.inf  # seconds that a stop may take; then workers are killed
    log: Path | None = None  # where workers' standard error goes; None: to worker.log beside the records


@dataclass
class Worker:
    """A worker process and what it is doing."""

    process: subprocess.Popen[str]
    slot: int  # of the `jobs` there are; decides the GPUs it sees
    spec: Spec | None = None

    def give(self, spec: Spec) -> None:
        self.spec = spec
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died, as the end of its output says too
            self.process.stdin.write(json.dumps(spec.model_dump(mode="json")) + "\n")
            self.process.stdin.flush()

    def dismiss(self) -> None:
        """Let it leave: its input ends."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


@dataclass
class Launcher:
    """Gives every spec that is not over to a worker, trainings before their evaluations."""

    store: Store
    options: Options
    display: Display
    failed: dict[str, str] = field(default_factory=dict)  # spec id -> why, in one line
    stopped_by: int | None = None  # the last signal that asked for a stop
    _pending: dict[str, Spec] = field(default_factory=dict)
    _retry_at: dict[str, float] = field(default_factory=dict)  # runs another process has
    _deaths: dict[str, int] = field(default_factory=dict)
    _workers: list[Worker] = field(default_factory=list)
    _heard: SimpleQueue[tuple[Worker, str]] = field(default_factory=SimpleQueue)
    _stopping: bool = False
    _cut: bool = False  # a run has been stopped before its end
    _stop_until: float = math.inf

    def run(self, specs: list[Spec], signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> bool:
        """Run all of them; False if one of `signals` stopped it before. What failed is in `failed`."""
        if specs:
            with lock.claim(self.store.folder(specs[0])):
                pass  # where files cannot be locked, this says so, and not the deaths of all workers
            guard_compiler_cache()
        self._pending = {spec.id: spec for spec in specs}
        previous = {number: signal.signal(number, self._stop) for number in signals}
        try:
            while self._pending or self._busy():
                self._assign()
                if self._stopping and (not self._busy() or time.monotonic() > self._stop_until):
                    return False
                if not self._busy() and not self._ready_soon():
                    break  # what is left waits for runs that failed
                with suppress(Empty):
                    self._hear(*self._heard.get(timeout=POLL_SECONDS))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for worker in self._workers:
                worker.dismiss()
            for worker in self._workers:
                if worker.spec and self._stopping:
                    worker.process.kill()  # it had its time
                worker.process.wait()
        return not self._cut

    def _stop(self, number: int, _frame: Any) -> None:
        if not self._stopping:
            self._stop_until = time.monotonic() + self.options.patience
        self._stopping, self.stopped_by = True, number
        for worker in self._workers:
            worker.process.terminate()  # a request: the worker writes a checkpoint and says so

    def _busy(self) -> bool:
        return any(worker.spec for worker in self._workers)

    def _ready_soon(self) -> bool:
        return any(self._requirement_met(spec) is not False for spec in self._pending.values())

    def _requirement_met(self, spec: Spec) -> bool | None:
        """True: can start; None: what it needs is still to come; False: what it needs has failed."""
        missing = [needed for needed in spec.requires if not self.store.done(needed)]
        if any(needed.id in self.failed or self.store.is_over(needed) for needed in missing):
            return False
        return None if missing else True

    def _next(self) -> Spec | None:
        now = time.monotonic()
        for spec in list(self._pending.values()):
            if self._retry_at.get(spec.id, 0) > now:
                continue
            if self.store.is_over(spec):  # another process finished it meanwhile
                self._finish(spec)
            elif self._requirement_met(spec) is True:
                return spec
        return None

    def _finish(self, spec: Spec) -> None:
        self._pending.pop(spec.id, None)
        if why := self.store.why_failed(spec):
            self.failed[spec.id] = why
        self.display.end(spec, self.failed.get(spec.id, ""))

    def _assign(self) -> None:
        while not self._stopping:
            idle = next((worker for worker in self._workers if not worker.spec), None)
            if idle is None and len(self._workers) >= self.options.jobs:
                return
            spec = self._next()
            if spec is None:
                return
            worker = idle or self._start()
            self._pending.pop(spec.id)
            worker.give(spec)
            self.display.begin(spec)
            if self._stopping:  # the signal came while the worker was not yet in the list
                worker.process.terminate()

    def _start(self) -> Worker:
        options = self.options
        slot = min(set(range(options.jobs)) - {worker.slot for worker in self._workers})
        environment = dict(os.environ)
        if options.device == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(share(slot, options.processes))
        errors = (options.log or self.store.root / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.engine.worker", "--root", str(self.store.root)]
            + ["--device", options.device, "--processes", str(options.processes)]
            + ["--checkpoint-seconds", str(options.checkpoint_seconds)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        errors.close()
        worker = Worker(process, slot)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        self._workers.append(worker)
        return worker

    def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):  # else it died in the middle of a word
                    self._heard.put((worker, line))
        self._heard.put((worker, ""))

    def _hear(self, worker: Worker, line: str) -> None:
        if not line:
            self._workers.remove(worker)
            self._bury(worker)
            return
        message = json.loads(line)
        spec = worker.spec
        if "warn" in message:
            self.display.warn(message["warn"])
        elif "news" in message and spec:
            self.display.news(spec, message["news"])
        elif "end" in message and spec:
            worker.spec = None
            if message["end"] == "busy":
                self._pending[spec.id] = spec
                self._retry_at[spec.id] = time.monotonic() + POLL_SECONDS
                self.display.elsewhere(spec)
            elif message["end"] == "stopped":
                self._stopping = self._cut = True  # by us, or by somebody who asked the worker
                self.display.stopped(spec)
            else:
                if message["end"] == "failed":
                    self.failed[spec.id] = message["why"]
                self.display.end(spec, message["why"])

    def _bury(self, worker: Worker) -> None:
        """A worker died without a word. Try its run again a few times, elsewhere."""
        status = worker.process.wait()
        worker.dismiss()
        spec = worker.spec
        if spec is None:
            return
        if self._stopping:  # its run is to be tried again by whoever continues
            self._cut = True
            return
        self._deaths[spec.id] = self._deaths.get(spec.id, 0) + 1
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        if self._deaths[spec.id] < ATTEMPTS:
            self.display.warn(f"{spec.label}: its process died ({how}); trying again")
            self._pending[spec.id] = spec
        else:
            self.failed[spec.id] = (
                f"its process died {ATTEMPTS} times ({how}); "
                f"see {self.options.log or self.store.root / 'worker.log'}"
            )
            log.note(self.store.folder(spec), "failed", why=self.failed[spec.id])
            self.display.end(spec, self.failed[spec.id])


def default_device() -> str:
    return "cuda" if visible_gpus() else "cpu"


def default_jobs(device: str, processes: int) -> int:
    """One run per GPU, or one per CPU core, since a run on a CPU has one thread."""
    slots = len(visible_gpus()) if device == "cuda" else _cores()
    return max(1, slots // processes)


def _cores() -> int:
    """Those this process may use, of which a job or a container may have a few only; macOS does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
