"""The commands: list, plan, run, status, cancel, logs, render, publish, verify, sample, export."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from experiments import RESULTS
from experiments.engine.artefact import SCALES, Artefact, Scale
from experiments.errors import UserError
from experiments.executors import EXECUTORS, executor
from experiments.paths import user_path

if TYPE_CHECKING:
    from experiments.engine.record import Store
    from experiments.engine.spec import Spec

DEFAULT_SCALE: Scale = "demo"


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def dispatch(arguments: list[str]) -> int:
    args = command_line().parse_args(arguments)
    return args.command(args)


def command_line() -> Parser:
    """Every command and option."""
    parser = Parser(
        prog="python -m experiments", description="Run, watch and redraw the paper's tables and figures."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, action: Callable[[argparse.Namespace], int], summary: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=action)
        sub.add_argument(
            "--runs",
            type=partial(user_path, what="--runs"),
            default=user_path(os.environ.get("IVON_RUNS") or RESULTS / "runs", "IVON_RUNS"),
            help="folder of this machine's records and checkpoints (default: $IVON_RUNS, else results/runs)",
        )
        return sub

    def with_artefact(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("artefact")
        sub.add_argument(
            "--scale", default=DEFAULT_SCALE, help=f"one of {', '.join(SCALES)} (default: {DEFAULT_SCALE})"
        )
        return sub

    def with_choice(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        pairs: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "FIELD=VALUE"}
        sub.add_argument(
            "--only",
            **pairs,
            help="leave out all other runs, e.g. model=resnet20 method=ivon seed=0, or kind=cost",
        )
        sub.add_argument("--set", **pairs, help="change every training, e.g. epochs=3")
        return sub

    command("list", _list, "every artefact, with its state at each scale")
    planning = with_artefact(
        command("plan", _plan, "what a run would do: time, disk, data sets; starts nothing")
    )
    planning.add_argument(
        "--measure", action="store_true", help="time some steps here where nothing is known"
    )
    running = with_artefact(command("run", _run, "run what is missing, then render"))
    running.add_argument(
        "--jobs", type=int, help="runs (SLURM: jobs) at the same time (default: one per GPU, else per core)"
    )
    for sub in (planning, running):
        sub.add_argument(
            "--executor", choices=("local", *EXECUTORS), default="local", help="default: %(default)s"
        )
        sub.add_argument(
            "--cluster",
            help="with --executor slurm: a file of slurm/clusters, or a path (default: $IVON_CLUSTER)",
        )
        sub.add_argument("--processes", type=int, help="GPUs (or CPU processes) that share one training")
        with_choice(sub)
    running.add_argument(
        "--wait",
        action="store_true",
        help="with --executor slurm: show how it goes until all is over, then render",
    )
    running.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    running.add_argument("--checkpoint-seconds", type=float, default=600.0, help="default: %(default)s")
    with_choice(
        with_artefact(command("status", _status, "per run: done, running, stopped, failed or waiting"))
    )
    with_choice(with_artefact(command("cancel", _cancel, "cancel the cluster's jobs of an artefact")))
    command("logs", _logs, "what a run and its jobs have printed").add_argument(
        "run", help="its id, or how it begins"
    )
    render = with_artefact(command("render", _render, "redraw an artefact, or all, from records alone"))
    render.set_defaults(scale=None)  # of all: every scale
    render.add_argument("--from", dest="source", choices=("runs", "reference"), default="runs")
    with_artefact(command("publish", _publish, "copy this machine's records to results/reference"))
    verify = command("verify", _verify, "the paper's claims: difference, interval, verdict")
    verify.add_argument("--scale", default=DEFAULT_SCALE)
    verify.add_argument("--from", dest="source", choices=("runs", "reference"), default="runs")
    sampling = command("sample", _sample, "text of a trained GPT-2, at the mean and under posterior draws")
    exporting = command("export", _export, "a trained GPT-2 as a folder that the library transformers loads")
    for sub in (sampling, exporting):
        sub.add_argument("run", help="the training's id, or how it begins")
    exporting.add_argument("folder", type=partial(user_path, what="folder"))
    sampling.add_argument("--prompt", default="\n", help="default: an empty line")
    sampling.add_argument("--tokens", type=int, default=60, help="to be written (default: %(default)s)")
    sampling.add_argument("--draws", type=int, default=2, help="default: %(default)s")
    sampling.add_argument("--temperature", type=float, default=0.8, help="default: %(default)s")
    sampling.add_argument("--top-k", type=int, default=40, help="default: %(default)s")
    return parser


def _artefact(args: argparse.Namespace) -> tuple[Artefact, Scale]:
    from experiments.artefacts import ARTEFACTS
    from experiments.engine.spec import nearest

    if args.artefact not in ARTEFACTS:
        raise UserError(f"unknown artefact {args.artefact!r}; {nearest(args.artefact, list(ARTEFACTS))}")
    artefact = ARTEFACTS[args.artefact]
    return artefact, _scale(args.scale, artefact.scales)


def _scale(name: str, allowed: tuple[Scale, ...]) -> Scale:
    from experiments.engine.spec import nearest

    for scale in allowed:
        if scale == name:
            return scale
    raise UserError(f"unknown scale {name!r}; {nearest(name, list(allowed))}")


def _distinct(artefact: Artefact) -> list[Scale]:
    """Its scales, without those that are the same runs as at one before: toys are alike at every scale."""
    found: dict[tuple[str, ...], Scale] = {}
    for scale in artefact.scales:
        found.setdefault(tuple(spec.id for spec in artefact.runs(scale)), scale)
    return list(found.values())


def _any_done(specs: Sequence[Spec], store: Store) -> bool:
    return any(store.done(spec) for spec in specs)


def _list(args: argparse.Namespace) -> int:
    from experiments.artefacts import ARTEFACTS
    from experiments.engine.record import Store

    store = Store(args.runs)
    known: dict[str, bool] = {}  # artefacts share runs
    over = store.ids()
    for artefact in ARTEFACTS.values():
        states = []
        for scale in artefact.scales:
            specs = {spec.id: spec for spec in artefact.specs(scale)}
            new = [run for run in specs if run not in known]
            known |= {run: run in over and store.done(specs[run]) is not None for run in new}
            states.append(f"{scale} {sum(known[run] for run in specs)}/{len(specs)}")
        print(f"{artefact.name:12} {artefact.title:60} {', '.join(states)}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from experiments.engine.estimate import Throughput
    from experiments.engine.local import default_device
    from experiments.engine.record import Store
    from experiments.plan import plan, unmeasured
    from experiments.run import check_request, chosen, known_stores

    artefact, scale = _artefact(args)
    store, specs = Store(args.runs), chosen(artefact.specs(scale), args.only, args.set)
    check_request(specs, args)
    known = known_stores(store)
    cluster = (
        executor("slurm").check(args.cluster, None, args.processes) if args.executor == "slurm" else None
    )
    device = cluster.device if cluster else default_device()
    if args.measure:
        from experiments.data.root import data_root
        from experiments.engine.measure import measure

        for spec in unmeasured(specs, Throughput(known, device)):
            for source in spec.sources:
                source.check(data_root())
            measure(spec, store, device)
    for line in plan(specs, store, known, device, cluster.data_root if cluster else None):
        print(line)
    if cluster:
        for line in executor("slurm").plan(specs, store, cluster, args.processes, known):
            print(line)
    return 0


def _run(args: argparse.Namespace) -> int:
    from experiments.run import run

    return run(*_artefact(args), args)


def _status(args: argparse.Namespace) -> int:
    from experiments.engine.record import Store
    from experiments.run import chosen
    from experiments.status import status

    artefact, scale = _artefact(args)
    for line in status(chosen(artefact.specs(scale), args.only, args.set), Store(args.runs)):
        print(line)
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from experiments.engine.record import Store
    from experiments.run import chosen

    artefact, scale = _artefact(args)
    specs = chosen(artefact.specs(scale), args.only, args.set)
    for line in executor("slurm").cancel(specs, Store(args.runs)):
        print(line)
    return 0


def _logs(args: argparse.Namespace) -> int:
    from experiments.artefacts import ARTEFACTS
    from experiments.engine.record import Store
    from experiments.status import logs

    specs = [
        spec for artefact in ARTEFACTS.values() for scale in artefact.scales for spec in artefact.specs(scale)
    ]
    for line in logs(args.run, specs, Store(args.runs)):
        print(line)
    return 0


def _render(args: argparse.Namespace) -> int:
    from experiments.artefacts import ARTEFACTS
    from experiments.engine import files
    from experiments.engine.record import Snapshot
    from experiments.run import show

    if args.source == "runs":
        store, root = Snapshot(args.runs), args.runs / "artefacts"
    else:
        store, root = Snapshot(RESULTS / "reference"), RESULTS / "artefacts"
    if args.artefact == "all":
        asked = [_scale(args.scale, SCALES)] if args.scale else SCALES
        jobs = [(a, s) for a in ARTEFACTS.values() for s in _distinct(a) if s in asked]
        jobs = [(artefact, scale) for artefact, scale in jobs if _any_done(artefact.runs(scale), store)]
        if not jobs:
            raise UserError(
                f"no finished run of any artefact in {os.path.relpath(store.root)}: nothing to draw"
            )
    else:
        args.scale = args.scale or DEFAULT_SCALE
        jobs = [_artefact(args)]
    for artefact, scale in jobs:
        paths = artefact.render(scale, store, files.writable_folder(root / scale))
        if args.artefact != "all":
            show(paths)
        else:
            print(f"{artefact.name} at {scale}: {len(paths)} files in {os.path.relpath(root / scale)}")
    return 0


def _publish(args: argparse.Namespace) -> int:
    from experiments.engine.record import Store

    artefact, scale = _artefact(args)
    specs = artefact.specs(scale)
    copied = Store(args.runs).copy_to(Store(RESULTS / "reference"), specs)
    if not copied:
        raise UserError(
            f"no run of {artefact.name} at scale {scale} is over in {args.runs}: nothing to publish"
        )
    print(f"{copied} of {len(specs)} records copied to {os.path.relpath(RESULTS / 'reference')}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from experiments.engine.record import Snapshot
    from experiments.verify import verdicts

    store = Snapshot(args.runs if args.source == "runs" else RESULTS / "reference")
    print(verdicts(_scale(args.scale, SCALES), store))
    return 0


def _sample(args: argparse.Namespace) -> int:
    for name, least in (("tokens", 1), ("draws", 0), ("temperature", 0), ("top_k", 1)):
        if not getattr(args, name) >= least:  # nor NaN
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least {least}")
    try:
        args.prompt.encode()
    except UnicodeEncodeError:  # Python keeps bytes that it cannot decode as halves of characters
        raise UserError(f"--prompt {args.prompt!r}: must be UTF-8") from None
    from experiments.engine.record import Store
    from experiments.gpt2.demonstration import language_run, write_and_doubt

    store = Store(args.runs)
    for line in write_and_doubt(
        language_run(args.run, store),
        store,
        prompt=args.prompt,
        new_tokens=args.tokens,
        draws=args.draws,
        temperature=args.temperature,
        top_k=args.top_k,
    ):
        print(line)
    return 0


def _export(args: argparse.Namespace) -> int:
    if args.folder.exists():
        raise UserError(f"folder {args.folder}: is there already; name another one")
    from experiments.engine.record import Store
    from experiments.gpt2.demonstration import export_mean, language_run

    store = Store(args.runs)
    export_mean(language_run(args.run, store), store, args.folder)
    print(os.path.relpath(args.folder))
    return 0
