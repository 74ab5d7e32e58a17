"""The commands `status` and `logs`: where every run is, and what became of those that failed."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.engine import lock, log, news
from experiments.engine.record import Store
from experiments.engine.spec import Spec, parse_spec
from experiments.errors import UserError
from experiments.executors import executor

TAIL_LINES = 40  # of a job's output, shown by `logs`


def status(specs: list[Spec], store: Store) -> Iterator[str]:
    """A line per run, what failed with its traceback, and their number by state."""
    cluster = executor("slurm").Whereabouts(store) if (store.root / "slurm").is_dir() else None
    count: Counter[str] = Counter()
    for spec in specs:
        state = state_of(spec, store, cluster)
        count[state.partition(":")[0].partition(" ")[0]] += 1
        yield f"{spec.id}  {state:40}  {spec.label}"
        if state.startswith("failed"):
            last = log.last(store.folder(spec))
            yield from (f"    {line}" for line in last.get("traceback", "").splitlines())
            if last:
                yield f"    log: {store.folder(spec) / log.NAME}"
    yield ", ".join(f"{number} {state}" for state, number in count.most_common())


def state_of(spec: Spec, store: Store, cluster: Any = None) -> str:
    """`done`, `failed: why`, `running`, `stopped`, `waiting` ...: from files and a cluster's queue."""
    folder = store.folder(spec)
    if record := store.load(spec):
        return f"failed: {record['failure']['reason']}" if record["failure"] else "done"
    if damage := store.why_failed(spec):
        return f"damaged: {damage}"
    told = cluster.of(spec) if cluster else None
    if told:
        return told + (_progress(folder) if told.startswith("running") else "")
    if lock.is_claimed(folder):
        return f"running{_progress(folder)}"
    last = log.last(folder)
    if last.get("event") == "failed":
        return f"failed: {last.get('why', 'its log does not say why')}"
    return "stopped at a checkpoint" if any(folder.glob("checkpoint-*.pt")) else "waiting"


def _progress(folder: Path) -> str:
    latest = news.read(folder)
    if latest is None:
        return ""
    if "at" not in latest or "seconds" not in latest:
        return f" ({100 * latest['fraction']:.0f} %)"
    left = latest["seconds"] * (1 - latest["fraction"]) / max(latest["fraction"], 1e-9)
    return f" ({latest['at']}, {left / 60:.0f} min left)"


def logs(wanted: str, specs: list[Spec], store: Store) -> Iterator[str]:
    """What is known of one run: what it is, its events, and the end of what its job has printed.

    Looked for among `specs`, and among those that have begun, as changed runs are of no artefact.
    """
    found = {spec.id: spec for spec in (*specs, *_begun(wanted, store)) if spec.id.startswith(wanted)}
    if not found:
        raise UserError(f"no run {wanted!r} of any artefact; `status` shows their ids")
    if len(found) > 1:
        raise UserError(f"{wanted!r} begins the ids of {len(found)} runs; give more of it")
    (spec,) = found.values()
    yield f"{spec.label}: {state_of(spec, store)}"
    yield json.dumps(spec.model_dump(mode="json"))
    path = store.folder(spec) / log.NAME
    yield f"== {path}"
    for event in log.events(store.folder(spec)):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.pop("time")))
        trace = event.pop("traceback", "")
        event.pop("spec", None)  # shown above
        yield f"{when} {event.pop('event')} " + " ".join(
            f"{k}={v}" for k, v in event.items() if v is not None
        )
        yield from (f"    {line}" for line in trace.splitlines())
    cluster = executor("slurm").logs(spec, store) if (store.root / "slurm").is_dir() else []
    for output in (*cluster, *(p for p in (store.root / "worker.log",) if p.exists() and not cluster)):
        yield f"== {output}"
        yield from output.read_text(errors="replace").splitlines()[-TAIL_LINES:]


def _begun(wanted: str, store: Store) -> Iterator[Spec]:
    """The runs of the store whose ids begin so, by their logs."""
    for path in store.root.glob(f"*/*/{log.NAME}"):
        if path.parent.name.startswith(wanted):
            spec = next((event["spec"] for event in log.events(path.parent) if "spec" in event), None)
            with suppress(UserError):  # of another version of this program
                if spec:
                    yield parse_spec(spec)
