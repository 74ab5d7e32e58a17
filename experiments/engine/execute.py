"""One run from claim to record: what a worker does with a specification."""

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.engine import lock
from experiments.engine.distributed import Group
from experiments.engine.evaluate import evaluate
from experiments.engine.record import Store
from experiments.engine.spec import AnySpec, TrainSpec
from experiments.engine.train import Diverged, train
from experiments.engine.watch import Stopped, Watch

CPU_THREADS = 1  # part of a result's bits on a CPU, so the same for every way of launching


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and in one line why, if not with a record of metrics."""

    end: Literal["done", "busy", "stopped", "failed"]
    why: str = ""


def execute(spec: AnySpec, store: Store, group: Group, watch: Watch) -> Outcome:
    """Run `spec` unless it is over or another process has it. Under a process group every member calls this."""
    folder = store.folder(spec)
    if not group.leads:
        _work(spec, store, group, watch)
        return Outcome("done")
    with lock.claim(folder) as mine:
        if not mine:
            return Outcome("busy")
        if not store.is_over(spec):
            try:
                _attempt(spec, store, group, watch)
            except Stopped:
                _log(folder, "stopped")
                return Outcome("stopped")
            except Exception as error:
                text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                _log(folder, "failed", why=text, traceback=traceback.format_exc())
                return Outcome("failed", text)
    record = store.load(spec)
    assert record is not None  # just written, or there before
    failure = record["failure"]
    return Outcome("failed", failure["reason"]) if failure else Outcome("done")


def _attempt(spec: AnySpec, store: Store, group: Group, watch: Watch) -> None:
    folder = store.folder(spec)
    _reset_peak_memory(group.device)
    _log(folder, "started", pid=os.getpid(), host=platform.node())
    failure: dict[str, Any] | None = None
    result: dict[str, Any] = {}
    try:
        result = _work(spec, store, group, watch)
    except Diverged as diverged:
        failure = {"reason": str(diverged), "epoch": diverged.epoch, "step": diverged.step}
    machine = {
        "device": _device_name(group.device),
        "processes": group.world,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": _peak_memory_mb(group.device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "git": _git_revision(),
        "attempts": _attempts(folder),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    store.add(spec, {"failure": failure, "result": result, "machine": machine})
    _log(folder, "over", failure=failure)


def _work(spec: AnySpec, store: Store, group: Group, watch: Watch) -> dict[str, Any]:
    if group.leads:
        watch = _noting_progress(watch, store.folder(spec))
    if isinstance(spec, TrainSpec):
        return train(spec, store.folder(spec), group, watch)
    return evaluate(spec, store.folder(spec.train), group, watch)


def _noting_progress(watch: Watch, folder: Path) -> Watch:
    """The same watch, which also leaves the latest news where `status` finds them."""

    def progress(news: dict[str, Any]) -> None:
        temporary = folder / ".progress.tmp"
        temporary.write_text(json.dumps(news))
        os.replace(temporary, folder / "progress.json")
        watch.progress(news)

    return replace(watch, progress=progress)


def _log(folder: Path, event: str, **details: Any) -> None:
    """Append a line to the run's log; what `status` and a curious user read."""
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": event, "time": time.time(), **details}) + "\n")


def _attempts(folder: Path) -> int:
    return sum('"event": "started"' in line for line in (folder / "log.jsonl").read_text().splitlines())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return f"CPU, {models[0].partition(':')[2].strip() if models else platform.processor() or platform.machine()}"


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # not allowed in this container: then the peak is that of the process so far
            pass


def _peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory allocated on the GPU, or peak resident memory of this process; MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.read_text().splitlines() if "VmHWM" in line)


def _git_revision() -> str | None:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
