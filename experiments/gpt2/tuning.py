"""How the learning rates of `demo` and `small` were chosen: the same budget for AdamW and IVON.

Six rates for each, a factor of about three apart, a short training with its own schedule each. Windows hardly
ever repeat, so the loss on a batch before the step on it is that on text not seen before: the mean of it over
the last tenth of the training decides, and the validation text is not looked at. Rates that end within 0.02
nats of the best are trained whole, and the same loss decides: IVON's at `small`, where trials are a twentieth
of a training. `grid.SCALED_LR` holds the winners, and a test compares it with the published records.
"""

import math
from pathlib import Path

from experiments.data.text.corpora import corpus
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import LanguageSpec
from experiments.gpt2.grid import SCALED, training
from experiments.image_classification.methods import LABELS

RATES = {
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "ivon": (100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0),
}
PART = {"demo": 1, "small": 20}  # the trials take so small a part of the steps
SEED = 100  # none that a figure uses
TIED = {("small", "ivon"): (1000.0, 3000.0)}  # the rates that were trained whole


def trial(method: str, lr: float, scale: Scale) -> LanguageSpec:
    """One short training with another learning rate."""
    spec = training("gpt2-mini", method, SEED, scale)
    steps = int(SCALED[scale]["train_steps"]) // PART[scale]  # type: ignore[call-overload]
    changes = {
        "method": spec.method.model_copy(update={"lr": lr}),
        "train_steps": steps,
        "eval_every": steps // 10,
        "warmup_steps": steps // 20,
        "eval_batches": 1,
    }
    return LanguageSpec.model_validate({**dict(spec), **changes})


def final(method: str, lr: float, scale: Scale) -> LanguageSpec:
    """One whole training with another learning rate, with the first seed of the figures."""
    spec = training("gpt2-mini", method, 0, scale)
    return spec.model_copy(update={"method": spec.method.model_copy(update={"lr": lr})})


def trials(scale: Scale) -> list[LanguageSpec]:
    short = [trial(method, lr, scale) for method, rates in RATES.items() for lr in rates]
    whole = [final(method, lr, at) for (at, method), rates in TIED.items() if at == scale for lr in rates]
    return short + whole


def winners(scale: Scale, store: Store) -> dict[str, float]:
    """For each method whose trainings are all over, the rate with the lowest training loss at the end."""
    best = {}
    for method, rates in RATES.items():
        tied = TIED.get((scale, method))
        which, among = (final, tied) if tied else (trial, rates)
        found = {lr: _loss(which(method, lr, scale), store) for lr in among}
        if all(loss is not None for loss in found.values()):
            best[method] = min(found, key=lambda lr: found[lr])  # type: ignore[arg-type,return-value]
    return best


def _loss(spec: LanguageSpec, store: Store) -> float | None:
    """Infinite for a training that diverged; None for one that is not over."""
    record = store.load(spec)
    if record is None:
        return None
    return math.inf if record["failure"] else record["result"]["history"][-1]["train_nll"]


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    import pandas as pd

    from experiments.image_classification.frames import measured
    from plots import tables

    rows = [
        {
            "method": LABELS[spec.method.name],
            "lr": spec.method.lr,
            "steps": spec.train_steps,
            "training loss at the end (nats)": loss,
        }
        for spec in trials(scale)
        if (loss := _loss(spec, store)) is not None
    ]
    frame = measured(pd.DataFrame(rows), "tuning_gpt2", scale)
    best = ", ".join(f"{LABELS[method]} {lr:g}" for method, lr in winners(scale, store).items())
    short = trial("ivon", RATES["ivon"][0], scale)
    whole = [f"{LABELS[method]}'s" for at, method in TIED if at == scale]
    tied = (
        f"; {' and '.join(whole)} best were tied, and trained whole with the figures' seed" if whole else ""
    )
    words = (
        f"Learning rates of GPT-2 at scale {scale}, {short.network_name} on {corpus(short.corpus).title}: "
        f"one training of {short.train_steps} steps each, with a seed that no figure uses{tied}. The "
        f"training loss decides; chosen: {best or 'not yet'}."
    )
    return tables.write_plain(folder / "tuning_gpt2", frame, words)


TUNING = Artefact(
    name="tuning_gpt2",
    title="How GPT-2's learning rates were chosen at demo and small.",
    runs=trials,
    render=_render,
    scales=("demo", "small"),
)
