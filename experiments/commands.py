"""The commands: list, plan, run, status, render, publish, verify."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from experiments.artefacts import ARTEFACTS
from experiments.data import DATASETS
from experiments.data.root import data_root
from experiments.engine import files, lock
from experiments.engine.artefact import SCALES, Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import AnySpec, EvalSpec, TrainSpec, nearest
from experiments.errors import UserError
from experiments.run import dataset_of, run, show

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def dispatch(arguments: list[str]) -> int:
    args = _parser().parse_args(arguments)
    return args.command(args)


def _parser() -> Parser:
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
            type=Path,
            default=Path(os.environ.get("IVON_RUNS", RESULTS / "runs")),
            help="folder of this machine's records and checkpoints (default: $IVON_RUNS, else results/runs)",
        )
        return sub

    def with_artefact(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("artefact")
        sub.add_argument("--scale", default="demo", help=f"one of {', '.join(SCALES)} (default: %(default)s)")
        return sub

    command("list", _list, "every artefact, with its state at each scale")
    with_artefact(command("plan", _plan, "what a run would do: runs, data sets; starts nothing"))
    running = with_artefact(command("run", _run, "run what is missing, then render"))
    running.add_argument(
        "--jobs", type=int, help="runs at once on this machine (default: one per GPU, else per core)"
    )
    running.add_argument(
        "--processes", type=int, default=1, help="GPUs (or CPU processes) that share one training"
    )
    running.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    running.add_argument("--checkpoint-seconds", type=float, default=600.0, help="default: %(default)s")
    running.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="leave out all other runs, e.g. model=resnet20 method=ivon seed=0",
    )
    running.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="change every training, e.g. epochs=3",
    )
    with_artefact(command("status", _status, "per run: done, running, stopped, failed or waiting"))
    render = with_artefact(command("render", _render, "redraw an artefact, or all, from records alone"))
    render.add_argument("--from", dest="source", choices=("runs", "reference"), default="runs")
    with_artefact(command("publish", _publish, "copy this machine's records to results/reference"))
    verify = command("verify", _verify, "the paper's claims: difference, interval, verdict")
    verify.add_argument("--scale", default="demo")
    verify.add_argument("--from", dest="source", choices=("runs", "reference"), default="runs")
    return parser


def _artefact(args: argparse.Namespace) -> tuple[Artefact, Scale]:
    if args.artefact not in ARTEFACTS:
        raise UserError(f"unknown artefact {args.artefact!r}; {nearest(args.artefact, list(ARTEFACTS))}")
    artefact = ARTEFACTS[args.artefact]
    return artefact, _scale(args.scale, artefact.scales)


def _scale(name: str, allowed: tuple[Scale, ...]) -> Scale:
    for scale in allowed:
        if scale == name:
            return scale
    raise UserError(f"unknown scale {name!r}; {nearest(name, list(allowed))}")


def _counts(specs: list[AnySpec], store: Store) -> tuple[int, int]:
    return sum(store.done(spec) is not None for spec in specs), len(specs)


def _list(args: argparse.Namespace) -> int:
    store = Store(args.runs)
    for artefact in ARTEFACTS.values():
        states = []
        for scale in artefact.scales:
            done, total = _counts(artefact.specs(scale), store)
            states.append(f"{scale} {done}/{total}")
        print(f"{artefact.name:12} {artefact.title:60} {', '.join(states)}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    artefact, scale = _artefact(args)
    store, specs = Store(args.runs), artefact.specs(scale)
    for kind, title in ((TrainSpec, "trainings"), (EvalSpec, "evaluations")):
        chosen = [spec for spec in specs if isinstance(spec, kind)]
        done, total = _counts(chosen, store)
        print(f"{title}: {total - done} to do, {done} of {total} done")
    for name in sorted({dataset_of(spec) for spec in specs}):
        try:
            DATASETS[name].check(data_root())
            print(f"data set {name}: ready, or fetched when the first run needs it")
        except UserError as error:
            print(f"data set {name}: {error}")
    return 0


def _run(args: argparse.Namespace) -> int:
    return run(*_artefact(args), args)


def _status(args: argparse.Namespace) -> int:
    artefact, scale = _artefact(args)
    store = Store(args.runs)
    for spec in artefact.specs(scale):
        print(f"{spec.id}  {_state(spec, store):40}  {spec.label}")
    return 0


def _state(spec: AnySpec, store: Store) -> str:
    record, folder = store.load(spec), store.folder(spec)
    if record:
        return f"failed: {record['failure']['reason']}" if record["failure"] else "done"
    if lock.is_claimed(folder):
        return f"running{_last(folder, 'progress.json')}"
    if any(folder.glob("checkpoint-*.pt")):
        return "stopped at a checkpoint"
    last = _last_event(folder)
    return f"failed: {last['why']}" if last.get("event") == "failed" else "waiting"


def _last_event(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    except (FileNotFoundError, IndexError, json.JSONDecodeError):  # no log yet, or only half a line
        return {}


def _last(folder: Path, name: str) -> str:
    try:
        news = json.loads((folder / name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return ""
    if "epoch" not in news:
        return f" ({100 * news['fraction']:.0f} %)"
    left = news["seconds"] * (1 - news["fraction"]) / max(news["fraction"], 1e-9)
    return f" (epoch {news['epoch'] + 1}/{news['epochs']}, {left / 60:.0f} min left)"


def _render(args: argparse.Namespace) -> int:
    if args.source == "runs":
        store, root = Store(args.runs), args.runs / "artefacts"
    else:
        store, root = Store(RESULTS / "reference"), RESULTS / "artefacts"
    if args.artefact == "all":
        jobs = [(a, s) for a in ARTEFACTS.values() for s in a.scales if _counts(a.specs(s), store)[0]]
    else:
        jobs = [_artefact(args)]
    for artefact, scale in jobs:
        paths = artefact.render(scale, store, files.writable_folder(root / scale))
        if args.artefact != "all":
            show(paths)
        else:
            print(f"{artefact.name} at {scale}: {len(paths)} files in {os.path.relpath(root / scale)}")
    return 0


def _publish(args: argparse.Namespace) -> int:
    artefact, scale = _artefact(args)
    specs = artefact.specs(scale)
    copied = Store(args.runs).copy_to(Store(RESULTS / "reference"), specs)
    print(f"{copied} of {len(specs)} records copied to {os.path.relpath(RESULTS / 'reference')}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from experiments.verify import verdicts

    store = Store(args.runs if args.source == "runs" else RESULTS / "reference")
    print(verdicts(_scale(args.scale, SCALES), store))
    return 0
