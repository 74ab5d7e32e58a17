"""One run from claim to record: what a worker does with a specification."""

import json
import math
import os
import platform
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.engine import lock, log
from experiments.engine.data_read import data_read
from experiments.engine.distributed import Group
from experiments.engine.machine import is_of_lost_device, machine_facts, reset_peak_memory
from experiments.engine.news import write as write_news
from experiments.engine.record import REACHED, Store
from experiments.engine.revision import SUBMITTED, git_revision
from experiments.engine.spec import Spec
from experiments.engine.watch import Diverged, Stopped, Watch
from experiments.errors import RunError


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and in one line why, if not with a record of metrics."""

    end: Literal["done", "busy", "stopped", "failed"]
    why: str = ""


def execute(spec: Spec, store: Store, group: Group, watch: Watch) -> Outcome:
    """Run `spec` unless it is over or another process has it. Under a process group every member calls
    this. An error that has cost this process its device is raised: that is not the end of the run.
    """
    folder = store.folder(spec)
    if not group.leads:
        if group.agree(False):  # what counts is what the leading process found
            with suppress(Stopped, Diverged):  # it reports them
                _work(spec, store, group, watch)
        return Outcome("done")
    with lock.claim(folder) as mine:
        to_do = group.agree(mine and not store.is_over(spec))
        if not mine:
            return Outcome("busy")
        if to_do:
            store.remove_temporaries(spec)
            try:
                _attempt(spec, store, group, watch)
            except Stopped:
                log.note(folder, "stopped")
                return Outcome("stopped")
            except Exception as error:
                text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                lost = is_of_lost_device(error)
                with suppress(OSError):  # a full disk may be what failed
                    event = "lost" if lost else "failed"
                    log.note(folder, event, why=text, traceback=traceback.format_exc())
                if lost:
                    raise
                return Outcome("failed", text)
        # Whoever removes the record wants the run repeated, not what this one has found.
        (folder / REACHED).unlink(missing_ok=True)
    why = store.why_failed(spec)  # of a record just written, or there before
    return Outcome("failed", why) if why else Outcome("done")


def _attempt(spec: Spec, store: Store, group: Group, watch: Watch) -> None:
    folder = store.folder(spec)
    reset_peak_memory(group.device)
    details = {"pid": os.getpid(), "host": platform.node(), "git": git_revision()}
    log.note(folder, "started", **details, spec=spec.model_dump(mode="json"))
    failure: dict[str, Any] | None = None
    result: dict[str, Any] = {}
    with data_read(folder) as data:
        try:
            result = _work(spec, store, group, watch)
        except Diverged as diverged:
            failure = {"reason": str(diverged), "epoch": diverged.epoch, "step": diverged.step}
    machine = {
        **machine_facts(group.device),
        "processes": group.world,
        "attempts": log.attempts(folder),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    revisions = log.revisions(folder)
    if len(revisions) > 1:  # of its attempts; `git` is that of the last one
        machine["revisions"] = revisions
    if SUBMITTED in os.environ:
        machine["submitted"] = json.loads(os.environ[SUBMITTED])
    record = {"failure": failure, "result": result, "machine": machine, "data": data}
    if why_not := store.objection(spec, record):
        raise RunError(f"what came out cannot be recorded: it {why_not}")
    store.add(spec, record)
    log.note(folder, "over", failure=failure)


def _work(spec: Spec, store: Store, group: Group, watch: Watch) -> dict[str, Any]:
    if group.leads:
        watch = _noting_progress(watch, store.folder(spec))
    return spec.carry_out(store.folder, group, watch)


def _noting_progress(watch: Watch, folder: Path) -> Watch:
    """The same watch, which also leaves the latest news where `status` finds them.

    Looks have some after every mini-batch; most of those are dropped, as the disk may be shared by many runs.
    """
    last = -math.inf

    def progress(news: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last < watch.progress_seconds:
            return
        last = time.monotonic()
        write_news(folder, news)
        watch.progress(news)

    return replace(watch, progress=progress)
