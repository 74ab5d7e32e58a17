"""The words under a table or figure: what is shown, at which scale, over how many seeds, measured on what,
and what is not there.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeGuard

from experiments.data import DATASETS
from experiments.engine.artefact import Scale, with_required
from experiments.engine.record import Store
from experiments.engine.spec import MixtureSpec, Spec, Training, TrainSpec
from experiments.image_classification.grid import EPOCHS
from experiments.image_classification.methods import CIFAR, LABELS, label_of

TWO_BBBS = (
    "{bbb} maximises the evidence lower bound. {released} is what the released code and its library do, and "
    "so the paper's {bbb}: the KL is averaged over the weights of each tensor, where the bound sums it, "
    "means start with a deviation of {mu}, rho with a jitter of {jitter}, and AdamW decays both by {decay}."
)


def caption(
    what: str,
    scale: Scale,
    specs: Sequence[Spec],
    store: Store,
    *,
    title_of: Callable[[Training], str] = label_of,
    drawn: Iterable[frozenset[int]] | None = None,
) -> str:
    """`title_of` is the row or curve that a training belongs to, to say which ones diverged; `drawn` are the
    seeds of each curve, where not all are drawn that are there.
    """
    trainings = {spec.id: spec for spec in with_required(specs) if isinstance(spec, Training)}
    diverged = {key for key, train in trainings.items() if (r := store.load(train)) and r["failure"]}
    records = [record for spec in specs if (record := store.done(spec))]
    hopeless = [not diverged.isdisjoint(needed.id for needed in with_required([spec])) for spec in specs]
    over = [lost or store.load(spec) is not None for spec, lost in zip(specs, hopeless, strict=True)]

    devices = sorted({record["machine"]["device"] for record in records})
    protocol = f"{_protocol(scale)}, {_seeds(specs, drawn or _seeds_over(specs, over))}"
    if any(train.method.name == "vogn" for train in trainings.values()):
        protocol += "; VOGN's settings are ours, as the paper's are lost"
    if reduced := {DATASETS[train.dataset].title for train in trainings.values() if _is_reduced(train)}:
        protocol += f"; {' and '.join(sorted(reduced))}: trained in bf16 (autocast), evaluated in fp32"
    parts = [what, f"Ours: {protocol}; measured on {' and '.join(devices) or 'nothing yet'}."]
    if len({label_of(train) for train in trainings.values() if train.method.name == "bbb"}) > 1:
        parts.append(_two_bbbs(scale))
    if diverged:
        all_of = Counter(title_of(train) for train in trainings.values())
        lost_of = Counter(title_of(trainings[key]) for key in diverged)
        said = [f"{title} ({lost_of[title]} of {all_of[title]} trainings)" for title in all_of & lost_of]
        parts.append(f"Diverged, and so without numbers: {', '.join(said)}.")
    if missing := over.count(False):
        parts.append(f"{missing} of {len(specs)} runs are missing.")
    return " ".join(parts)


def _is_reduced(train: Training) -> TypeGuard[TrainSpec]:
    return isinstance(train, TrainSpec) and train.precision == "bf16"


def _protocol(scale: Scale) -> str:
    if scale == "paper":
        return "the paper's protocol"
    reduced = (
        f"scale {scale}, {EPOCHS[scale]} epochs in place of the paper's 200 and beta2 of IVON to fit them"
    )
    if scale == "small":
        return reduced
    return f"{reduced}, handwritten digits and narrow networks, settings chosen on held-out training images"


def _two_bbbs(scale: Scale) -> str:
    settings = CIFAR["bbb_released"]
    words = TWO_BBBS.format(
        bbb=LABELS["bbb"],
        released=LABELS["bbb_released"],
        mu=settings.mu_init_std,
        jitter=settings.rho_jitter,
        decay=settings.adamw_decay,
    )
    return words + (" Both have the learning rate that was chosen for the first." if scale == "demo" else "")


def _seeds_over(specs: Sequence[Spec], over: Sequence[bool]) -> list[frozenset[int]]:
    """For each kind of look at each training the seeds with which all is over."""
    found: dict[tuple[str, str], dict[int, bool]] = defaultdict(dict)
    for spec, done in zip(specs, over, strict=True):
        if not isinstance(spec, MixtureSpec):  # the members of which are seeds of their own
            train = spec.trainings[0]
            seeds = found[type(spec).__name__, train.model_copy(update={"seed": 0}).id]
            seeds[train.seed] = seeds.get(train.seed, True) and done
    return [frozenset(seed for seed, done in seeds.items() if done) for seeds in found.values()]


def _seeds(specs: Sequence[Spec], there: Iterable[frozenset[int]]) -> str:
    """How many there are of each method: "5 seeds", or, with runs missing, "1 to 3 of 5 seeds a method"."""
    most = len({spec.trainings[0].seed for spec in specs if not isinstance(spec, MixtureSpec)})
    different = set(there)
    fewest, largest = min(map(len, different)), max(map(len, different))
    if fewest == most:
        return f"{most} seed{'s' if most > 1 else ''}"
    number = f"{fewest}" if fewest == largest else f"{fewest} to {largest}"
    others = ", not the same ones for all" if fewest == largest and len(different) > 1 else ""
    return f"{number} of {most} seeds a method{others}"
