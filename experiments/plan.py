"""The command `plan`: what is left to do, how long it takes and what it needs; it starts nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from experiments.data.root import data_root
from experiments.engine.estimate import Throughput, checkpoint_bytes, fraction_done
from experiments.engine.record import Store
from experiments.engine.spec import Spec, Training
from experiments.run import sources

Measure = Callable[[Training], object]


def plan(
    specs: list[Spec], store: Store, known: list[Store], device: str, root: Path | None = None
) -> Iterator[str]:
    """`known` are the stores whose records tell how long things take; `root` is where the runs find data."""
    trainings = [spec for spec in specs if isinstance(spec, Training)]
    looks = [spec for spec in specs if not isinstance(spec, Training)]
    for some, title in ((trainings, "trainings"), (looks, "evaluations")):
        over = [spec for spec in some if store.is_over(spec)]
        damaged = sum(store.load(spec) is None for spec in over)
        said = f", {damaged} with a damaged record, which has to be removed first" if damaged else ""
        yield f"{title}: {len(some) - len(over)} to do, {len(over) - damaged} of {len(some)} over{said}"
    left = [spec for spec in specs if not store.is_over(spec)]
    yield from _time(left, store, Throughput(known, device), "GPU" if device == "cuda" else "CPU core")
    for kind in dict.fromkeys(type(spec) for spec in left if isinstance(spec, Training)):
        yield from kind.forecast([spec for spec in left if isinstance(spec, kind)], known)
    yield from _disk([spec for spec in left if isinstance(spec, Training)])
    for source in sources(specs):
        yield f"data: {source.title}, {source.where(root or data_root())}"


def _time(left: list[Spec], store: Store, throughput: Throughput, device: str) -> Iterator[str]:
    total, bases, unknown = 0.0, Counter[str](), 0
    for spec in left:
        estimate = throughput.estimate(spec)
        if estimate is None:
            unknown += 1
            continue
        total += estimate.seconds * (1 - fraction_done(store.folder(spec)))
        bases[estimate.basis] += 1
    if bases:
        hours = f"{total / 3600:.3g}" if total < 3.6e6 else f"{total / 3600:,.0f}"
        yield f"time: {hours} {device}-hours for {_runs(bases.total())}, from"
        yield from (f"    {basis}: {_runs(number)}" for basis, number in bases.most_common())
    if unknown:
        yield (
            f"time: not known for {_runs(unknown)}: nothing like them has been measured on a {device}; "
            "--measure times some steps of each kind on this machine"
        )


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"


def unmeasured(specs: list[Spec], throughput: Throughput) -> list[Training]:
    """One training of each kind whose speed is not known."""
    kinds: dict[tuple[object, ...], Training] = {}
    for spec in specs:
        if isinstance(spec, Training) and throughput.estimate(spec) is None:
            kinds.setdefault(spec.pace.alike, spec)
    return list(kinds.values())


def _disk(trainings: list[Training]) -> Iterator[str]:
    if not trainings:
        return
    if find_spec("torch") is None:
        yield "disk: not known without PyTorch, which builds the networks"
        return
    weights: dict[str, int] = {}
    total = 0
    for spec in trainings:
        key = f"{spec.network_name} for {spec.sources[0].title}"
        if key not in weights:
            weights[key] = spec.parameters
        total += checkpoint_bytes(spec, weights[key])
    sizes = ", ".join(f"{network}: {count:,} weights" for network, count in weights.items())
    yield f"disk: {total / 1e9:.3g} GB, two checkpoints a training ({sizes})"
