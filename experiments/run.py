"""The command `run`: check the request, run what is missing, show what came out."""

import argparse
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from experiments import RESULTS
from experiments.data.root import data_root
from experiments.engine import files
from experiments.engine.artefact import Artefact, Scale, with_required
from experiments.engine.assignments import changed, value_of
from experiments.engine.gpus import visible_gpus
from experiments.engine.local import Launcher, Options, default_device, default_jobs
from experiments.engine.progress import display
from experiments.engine.record import Snapshot, Store
from experiments.engine.spec import Spec, nearest, parse_spec
from experiments.engine.spec.base import Source
from experiments.errors import RunError, UserError
from experiments.executors import executor
from experiments.status import state_of
from experiments.termination import Terminated

WAIT_SECONDS = 10.0  # between two looks at a cluster


def run(artefact: Artefact, scale: Scale, args: argparse.Namespace) -> int:
    """Run what is missing of `artefact`, then draw it; the exit code."""
    specs = chosen(artefact.specs(scale), args.only, args.set)
    if args.executor == "slurm":
        return _on_cluster(specs, artefact, scale, args)
    if args.wait:
        raise UserError("--wait: only with --executor slurm")
    check_request(specs, args)
    options = _options(args)
    _check_gpus(options)
    store = Store(files.writable_folder(args.runs))
    check_data(specs)
    try:
        failed = _launch(specs, store, options)
    except KeyboardInterrupt:
        print("stopped; the same command continues where it stopped", file=sys.stderr)
        raise
    return _finish(specs, failed, store, artefact, scale, args)


def _on_cluster(specs: list[Spec], artefact: Artefact, scale: Scale, args: argparse.Namespace) -> int:
    """Submit what is missing and return at once, or with --wait when all is over; the exit code."""
    check_request(specs, args)
    cluster = executor(args.executor)
    profile = cluster.check(args.cluster, args.jobs, args.processes)
    store = Store(files.writable_folder(args.runs.absolute()))
    lines, left = cluster.run(specs, store, profile, args.processes, known_stores(store))
    for line in lines:
        print(line, file=sys.stderr)
    while args.wait and _waits(specs, store, cluster):
        time.sleep(WAIT_SECONDS)
        if left:
            with suppress(RunError):  # the cluster does not answer; it is asked again
                lines, after = cluster.run(left, store, profile, args.processes, known_stores(store))
                if len(after) < len(left):
                    print(*lines, sep="\n", file=sys.stderr)
                left = after
    where = cluster.Whereabouts(store)
    states = {spec.id: state_of(spec, store, where) for spec in specs}
    if not where.asked or any(state.startswith(("waiting", "next", "running")) for state in states.values()):
        print(_how_to_go_on(artefact, scale, args), file=sys.stderr)
        return 0
    failed = {run: state.partition(": ")[2] or state for run, state in states.items() if state != "done"}
    return _finish(specs, failed, store, artefact, scale, args)


def _how_to_go_on(artefact: Artefact, scale: Scale, args: argparse.Namespace) -> str:
    command = f"{artefact.name} --scale {scale}"
    choice = (("--only", args.only), ("--set", args.set))
    these = shlex.join((*command.split(), *(w for name, pairs in choice if pairs for w in (name, *pairs))))
    draws = "" if args.set else f"`render {command}` draws what is done; "  # no changed run is drawn
    return f"`status {these}` shows how it goes; {draws}running this again submits what is missing then"


def _waits(specs: list[Spec], store: Store, cluster: Any) -> bool:
    """Whether a run is still to come; says how many."""
    where = cluster.Whereabouts(store)
    count = Counter(state_of(spec, store, where).partition(":")[0].partition(" ")[0] for spec in specs)
    print(", ".join(f"{number} {state}" for state, number in count.most_common()), file=sys.stderr)
    return not where.asked or bool(count["waiting"] + count["next"] + count["running"])


def known_stores(store: Store) -> list[Store]:
    """Whose records tell how long runs take: this machine's, and the published ones."""
    return [store, Store(RESULTS / "reference")]


def _finish(
    specs: list[Spec],
    failed: dict[str, str],
    store: Store,
    artefact: Artefact,
    scale: Scale,
    args: argparse.Namespace,
) -> int:
    for spec in specs:
        if spec.id in failed:
            print(
                f"failed: {spec.label}: {failed[spec.id]} (log: {store.folder(spec) / 'log.jsonl'})",
                file=sys.stderr,
            )
    if args.set:
        _report(specs, store)
    elif not any(store.done(spec) for spec in artefact.runs(scale)):
        print("nothing to draw: what it shows could not be run", file=sys.stderr)
    else:
        folder = files.writable_folder(args.runs / "artefacts" / scale)
        show(artefact.render(scale, Snapshot.of(store), folder))
    return 1 if failed else 0


def check_request(specs: list[Spec], args: argparse.Namespace) -> None:
    """What `plan` and `run` are asked for alike."""
    for name in ("jobs", "processes"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if args.cluster and args.executor != "slurm":
        raise UserError("--cluster: only with --executor slurm")
    processes = args.processes or 1
    for train in [train for spec in specs for train in spec.trainings]:
        if why_not := train.not_shared_by(processes):
            raise UserError(f"--processes {processes}: {why_not}")


def _options(args: argparse.Namespace) -> Options:
    if not args.checkpoint_seconds > 0:
        raise UserError(f"--checkpoint-seconds {args.checkpoint_seconds}: must be above 0")
    device = args.device or default_device()
    if device == "cuda" and default_device() != "cuda":
        raise UserError("--device cuda: this machine has no NVIDIA GPU; allowed: cpu")
    processes = args.processes or 1
    return Options(
        jobs=args.jobs or default_jobs(device, processes),
        device=device,
        processes=processes,
        checkpoint_seconds=args.checkpoint_seconds,
    )


def _check_gpus(options: Options) -> None:
    """Whether each process of a training has a GPU to itself, as NCCL wants it."""
    gpus = len(visible_gpus())
    if options.device == "cuda" and options.processes > gpus:
        raise UserError(
            f"--processes {options.processes}: each needs a GPU of its own, and {gpus} can be seen"
        )


def _assignments(option: str, pairs: Sequence[str]) -> list[tuple[str, str]]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"{option} {pair}: must be FIELD=VALUE")
    return [(field, value) for field, _, value in (pair.partition("=") for pair in pairs)]


def chosen(specs: list[Spec], only: list[str], changes: Sequence[str] = ()) -> list[Spec]:
    """The runs whose training has the values that `--only FIELD=VALUE` asks for, changed as `--set` does.

    A field that is asked for twice may have either value. A kind is that of the run itself where there is
    such a run (`kind=cost`), which comes with the runs that it needs.
    """
    wanted: dict[str, list[str]] = {}
    for field, value in _assignments("--only", only):
        wanted.setdefault(field, []).append(value)
    for field, allowed in wanted.items():
        specs = _with_value(specs, field, allowed)
    assignments: dict[str, str] = {}
    for field, value in _assignments("--set", changes):
        if field in assignments:
            raise UserError(f"--set {field}={value}: it is set to {assignments[field]} already")
        assignments[field] = value
    return _changed(specs, assignments) if assignments else specs


def _with_value(specs: list[Spec], field: str, allowed: list[str]) -> list[Spec]:
    """Those whose trainings all have one of these values, and what they need."""
    asked = f"--only {field}={allowed[0]}"
    found = [{value_of(train, field, asked) for train in spec.trainings} for spec in specs]
    known = set().union(*found)
    if field == "kind":
        own = {spec.kind for spec in specs}
        known |= own
        if not own.isdisjoint(allowed):
            found = [{spec.kind} for spec in specs]
    for value in allowed:
        if value not in known:
            why = nearest(value, sorted(known)) if known else "they have no training; kind=... chooses them"
            raise UserError(f"--only {field}={value}: no run left has that; {why}")
    return with_required(
        spec for spec, values in zip(specs, found, strict=True) if values and values <= set(allowed)
    )


def _changed(specs: list[Spec], changes: dict[str, str]) -> list[Spec]:
    """The same runs with fields of the training replaced: other ids, so they never enter a table."""
    found: dict[str, Spec] = {}
    for spec in specs:
        new = spec.with_trainings(partial(changed, assignments=changes))
        new = parse_spec(new.model_dump(mode="json"))  # what goes with one training may not go with another
        found.setdefault(new.id, new)
    return list(found.values())


def _launch(specs: list[Spec], store: Store, options: Options) -> dict[str, str]:
    """What failed, by spec id; KeyboardInterrupt or Terminated if somebody stopped it."""
    failed = {spec.id: why for spec in specs if (why := store.why_failed(spec))}
    missing = [spec for spec in specs if not store.is_over(spec)]
    if not missing:
        print(f"nothing to run: {len(specs)} of {len(specs)} runs are over", file=sys.stderr)
        return failed
    fetch_data(missing, data_root())  # here, and not in a worker: it is seen, and Ctrl-C ends it
    print(
        f"{len(missing)} of {len(specs)} runs to do, {options.jobs} at a time on {options.device}; "
        f"interrupt at will, the same command continues",
        file=sys.stderr,
    )
    shown = display(missing)
    launcher = Launcher(store, options, shown)
    try:
        finished = launcher.run(missing)
    finally:
        shown.close()
    if not finished:
        raise KeyboardInterrupt if launcher.stopped_by == signal.SIGINT else Terminated
    return {**failed, **launcher.failed}


def _report(specs: list[Spec], store: Store) -> None:
    """Runs changed with --set enter no table; their metrics are printed."""
    for spec in specs:
        record = store.done(spec)
        if record and "metrics" in record["result"]:
            numbers = record["result"]["metrics"].items()
            print(
                f"{spec.label}:",
                ", ".join(f"{name} {value:.4f}" for name, value in numbers if value is not None),
            )


def show(paths: list[Path]) -> None:
    """The table as Markdown, and where everything is."""
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text())
    for path in paths:
        print(os.path.relpath(path))


def check_data(specs: list[Spec]) -> None:
    """Whether all data sets are there or can be fetched; UserError if not."""
    for source in sources(specs):
        source.check(data_root())


def fetch_data(specs: list[Spec], root: Path) -> None:
    """Bring what can be fetched or made, before anything that needs it starts."""
    for source in sources(specs):
        source.fetch(root)


def sources(specs: list[Spec]) -> list[Source]:
    """The data that these runs read, each once, by title."""
    found = {source.title: source for spec in specs for source in spec.sources}
    return [found[title] for title in sorted(found)]
