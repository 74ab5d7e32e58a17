"""The commands: list, plan, run, status, render, publish, verify."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from experiments.artefacts import ARTEFACTS
from experiments.data import DATASETS
from experiments.data.root import data_root
from experiments.engine import files, lock
from experiments.engine.artefact import SCALES, Artefact, Scale
from experiments.engine.local import Launcher, Options, default_device, default_jobs
from experiments.engine.progress import display
from experiments.engine.record import Store
from experiments.engine.spec import AnySpec, EvalSpec, TrainSpec, changed, nearest
from experiments.errors import UserError

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

    def with_artefact(
        sub: argparse.ArgumentParser, *, default_scale: Scale = "demo"
    ) -> argparse.ArgumentParser:
        sub.add_argument("artefact")
        sub.add_argument(
            "--scale", default=default_scale, help=f"one of {', '.join(SCALES)} (default: %(default)s)"
        )
        return sub

    command("list", _list, "every artefact, with its state at each scale")
    with_artefact(command("plan", _plan, "what a run would do: runs, data sets; starts nothing"))
    run = with_artefact(command("run", _run, "run what is missing, then render"))
    run.add_argument(
        "--jobs", type=int, help="runs at once on this machine (default: one per GPU, else per core)"
    )
    run.add_argument(
        "--processes", type=int, default=1, help="GPUs (or CPU processes) that share one training"
    )
    run.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    run.add_argument("--checkpoint-seconds", type=float, default=600.0, help="default: %(default)s")
    run.add_argument(
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
    for name in sorted({_dataset(spec) for spec in specs}):
        try:
            DATASETS[name].check(data_root())
            print(f"data set {name}: ready, or fetched when the first run needs it")
        except UserError as error:
            print(f"data set {name}: {error}")
    return 0


def _dataset(spec: AnySpec) -> str:
    return spec.dataset if isinstance(spec, TrainSpec) else spec.train.dataset


def _run(args: argparse.Namespace) -> int:
    artefact, scale = _artefact(args)
    specs = artefact.specs(scale)
    changes = _assignments(args.set)
    if changes:
        specs = _changed(specs, changes)
    options = _options(args)
    _check_shared(specs, options.processes)
    store = Store(files.writable_folder(args.runs))
    for name in sorted({_dataset(spec) for spec in specs}):
        DATASETS[name].check(data_root())
    failed = _launch(specs, store, options)
    if failed is None:
        print("stopped; the same command continues where it stopped", file=sys.stderr)
        return 130
    for spec in specs:
        if spec.id in failed:
            print(
                f"failed: {spec.label}: {failed[spec.id]} (log: {store.folder(spec) / 'log.jsonl'})",
                file=sys.stderr,
            )
    if changes:
        _report(specs, store)
    else:
        _show(artefact.render(scale, store, files.writable_folder(args.runs / "artefacts" / scale)))
    return 1 if failed else 0


def _options(args: argparse.Namespace) -> Options:
    for name in ("jobs", "processes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if not args.checkpoint_seconds > 0:
        raise UserError(f"--checkpoint-seconds {args.checkpoint_seconds}: must be above 0")
    device = args.device or default_device()
    if device == "cuda" and default_device() != "cuda":
        raise UserError("--device cuda: this machine has no NVIDIA GPU; allowed: cpu")
    return Options(
        jobs=args.jobs or default_jobs(device, args.processes),
        device=device,
        processes=args.processes,
        checkpoint_seconds=args.checkpoint_seconds,
    )


def _check_shared(specs: list[AnySpec], processes: int) -> None:
    """Whether each training can be shared among so many processes."""
    for train in [spec if isinstance(spec, TrainSpec) else spec.train for spec in specs]:
        if processes > 1 and train.method.double_backward:
            raise UserError(f"--processes {processes}: method {train.method.name!r} runs on one device only")
        if train.batch_size % processes:
            raise UserError(f"--processes {processes}: must divide batch_size {train.batch_size}")


def _assignments(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--set {pair}: must be FIELD=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _changed(specs: list[AnySpec], changes: dict[str, str]) -> list[AnySpec]:
    """The same runs with fields of the training replaced: other ids, so they never enter a table."""
    found: dict[str, AnySpec] = {}
    for spec in specs:
        new: AnySpec
        if isinstance(spec, TrainSpec):
            new = changed(spec, changes)
        else:
            new = spec.model_copy(update={"train": changed(spec.train, changes)})
        found.setdefault(new.id, new)
    return list(found.values())


def _launch(specs: list[AnySpec], store: Store, options: Options) -> dict[str, str] | None:
    """What failed, by spec id; None if somebody stopped it."""
    failed = {}
    for spec in specs:
        record = store.load(spec)
        if record and record["failure"]:
            failed[spec.id] = record["failure"]["reason"]
    missing = [spec for spec in specs if not store.is_over(spec)]
    if not missing:
        print(f"nothing to run: {len(specs)} of {len(specs)} runs are over", file=sys.stderr)
        return failed
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
    return {**failed, **launcher.failed} if finished else None


def _report(specs: list[AnySpec], store: Store) -> None:
    """Runs changed with --set enter no table; their metrics are printed."""
    for spec in specs:
        record = store.done(spec)
        if record and isinstance(spec, EvalSpec):
            numbers = record["result"]["metrics"].items()
            print(
                f"{spec.label}:",
                ", ".join(f"{name} {value:.4f}" for name, value in numbers if value is not None),
            )


def _show(paths: list[Path]) -> None:
    """The table as Markdown, and where everything is."""
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text())
    for path in paths:
        print(os.path.relpath(path))


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
            _show(paths)
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
