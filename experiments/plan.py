"""The command `plan`: what is left to do, how long it takes and what it needs; it starts nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from experiments.data import DATASETS
from experiments.data.ood import OOD_SETS
from experiments.data.root import data_root
from experiments.engine.estimate import Throughput, checkpoint_bytes, fraction_done, parameters_of
from experiments.engine.record import Store
from experiments.engine.spec import AnySpec, OodSpec, TrainSpec
from experiments.errors import UserError

Measure = Callable[[TrainSpec], object]


def plan(specs: list[AnySpec], store: Store, known: list[Store], device: str) -> Iterator[str]:
    """`known` are the stores whose records tell how long things take."""
    trainings = [spec for spec in specs if isinstance(spec, TrainSpec)]
    looks = [spec for spec in specs if not isinstance(spec, TrainSpec)]
    for some, title in ((trainings, "trainings"), (looks, "evaluations")):
        done = sum(store.is_over(spec) for spec in some)
        yield f"{title}: {len(some) - done} to do, {done} of {len(some)} over"
    left = [spec for spec in specs if not store.is_over(spec)]
    yield from _time(left, store, Throughput(known, device), "GPU" if device == "cuda" else "CPU core")
    yield from _disk([spec for spec in left if isinstance(spec, TrainSpec)])
    for name in sorted({spec.trainings[0].dataset for spec in specs}):
        yield f"data set {name}: {_data(name, data_root())}"
    for name in sorted({spec.outside for spec in specs if isinstance(spec, OodSpec)}):
        yield f"images from elsewhere: {OOD_SETS[name].title}, {OOD_SETS[name].origin}"


def _time(left: list[AnySpec], store: Store, throughput: Throughput, device: str) -> Iterator[str]:
    total, bases, unknown = 0.0, Counter[str](), 0
    for spec in left:
        estimate = throughput.estimate(spec)
        if estimate is None:
            unknown += 1
            continue
        total += estimate.seconds * (1 - fraction_done(store.folder(spec)))
        bases[estimate.basis] += 1
    if bases:
        yield f"time: {total / 3600:.3g} {device}-hours for {sum(bases.values())} runs, from"
        yield from (f"    {basis}: {number} runs" for basis, number in bases.most_common())
    if unknown:
        yield (
            f"time: not known for {unknown} runs: nothing like them has been measured on a {device}; "
            "--measure times some steps of each kind on this machine"
        )


def unmeasured(specs: list[AnySpec], throughput: Throughput) -> list[TrainSpec]:
    """One training of each kind whose speed is not known."""
    kinds: dict[tuple[object, ...], TrainSpec] = {}
    for spec in specs:
        if isinstance(spec, TrainSpec) and throughput.estimate(spec) is None:
            kinds.setdefault((spec.dataset, spec.model, spec.width, spec.batch_size, spec.method.name), spec)
    return list(kinds.values())


def _disk(trainings: list[TrainSpec]) -> Iterator[str]:
    if not trainings:
        return
    if find_spec("torch") is None:
        yield "disk: not known without PyTorch, which builds the networks"
        return
    weights: dict[tuple[str, str, int | None], int] = {}
    total = 0
    for spec in trainings:
        key = (spec.dataset, spec.model, spec.width)
        if key not in weights:
            weights[key] = parameters_of(spec)
        total += checkpoint_bytes(spec, weights[key])
    sizes = ", ".join(f"{model} {count:,} weights" for (_, model, _), count in weights.items())
    yield f"disk: {total / 1e9:.3g} GB, two checkpoints a training ({sizes})"


def _data(name: str, root: Path) -> str:
    info = DATASETS[name]
    try:
        info.check(root)
    except UserError as error:
        return f"MISSING: {error}"
    if info.folder is None:
        return "comes with a dependency"
    if (root / info.folder).exists():
        return f"found in {root / info.folder}"
    return f"not in {root}; it is fetched before the first run"
