"""How many days GPT-2's trainings take on a set of GPUs: operations by counting, utilisation as measured.

A training does `Size.flops_per_token` operations a token; GPUs reach a part of their peak, the model-FLOP
utilisation. It is taken from our own records where there are any on a GPU, else from the hours of the paper's
Table 6, which were those of eight A100 (Sec. C.1).
"""

from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from statistics import median

import pandas as pd

from experiments.engine.record import Store
from experiments.engine.spec import LanguageSpec, parse_spec
from experiments.errors import UserError
from experiments.gpt2.frames import PAPER_LABELS
from experiments.gpt2.grid import training
from experiments.gpt2.peak import PEAKS
from experiments.image_classification.frames import published
from experiments.image_classification.methods import LABELS
from experiments.models.gpt2 import SIZES

MACHINES = {"8 A100": (8, "A100"), "8 H100": (8, "H100"), "1 H200": (1, "H200")}
DAY = 24 * 3600.0


def operations(spec: LanguageSpec) -> float:
    """Floating-point operations of the whole training, without recomputed activations."""
    shape = SIZES[spec.model] if spec.corpus == "openwebtext" else spec.size_for(SIZES[spec.model].vocabulary)
    return float(spec.train_steps * spec.tokens_per_step * shape.flops_per_token)


def published_utilisation() -> dict[tuple[str, str], float]:
    """(model, method) -> model-FLOP utilisation that the hours of the paper's Table 6 imply."""
    table = published("table6")
    hours = table[table["metric"] == "runtime"].dropna(subset="value")
    found = {}
    for model, label in PAPER_LABELS.items():
        for method in ("adamw", "ivon"):
            rows = hours[(hours["model"] == label) & (hours["method"] == LABELS[method])]
            if len(rows):
                seconds = 3600 * pd.to_numeric(rows["value"]).iloc[0]
                peak = 8 * PEAKS["A100"]
                spec = training(model, method, 0, "paper")
                found[model, method] = operations(spec) / (seconds * peak)
    return found


def _alike(spec: LanguageSpec) -> Hashable:
    """What trainings have in common that use a GPU equally well."""
    memory = (spec.checkpointing, spec.sharded)
    return (spec.network_name, spec.method.name, spec.precision, *memory, spec.corpus)


def measured_utilisation(stores: Iterable[Store]) -> dict[Hashable, float]:
    """By what is alike: the median of our records of trainings on GPUs whose peak is known."""
    seen: dict[Hashable, list[float]] = {}
    for store in stores:
        for record in store.all(LanguageSpec.experiment):
            if record["spec"]["kind"] == "language" and record["result"].get("mfu"):
                with suppress(UserError):  # of another version of this program
                    spec = parse_spec(record["spec"])
                    assert isinstance(spec, LanguageSpec)
                    seen.setdefault(_alike(spec), []).append(record["result"]["mfu"])
    return {key: median(values) for key, values in seen.items()}


def forecast(specs: list[LanguageSpec], stores: Iterable[Store]) -> Iterator[str]:
    """A line a training of the paper's: days on each of MACHINES, and what that rests on."""
    ours, theirs = measured_utilisation(stores), published_utilisation()
    for spec in specs:
        if spec.corpus != "openwebtext" or spec.precision == "fp32":  # PEAKS are of bfloat16
            continue
        # The largest model's hours are not published: those of the next smaller one serve.
        use, basis = ours.get(_alike(spec)), "measured here"
        if use is None:
            use, basis = theirs.get((spec.model, spec.method.name)), "implied by the paper's Table 6"
        if use is None:
            use, basis = theirs.get(("gpt2-medium", spec.method.name)), "of the paper's GPT-2 355M"
        if use is None:
            continue
        days = ", ".join(
            f"{operations(spec) / (use * count * PEAKS[gpu]) / DAY:.1f} on {name}"
            for name, (count, gpu) in MACHINES.items()
        )
        yield f"days: {spec.label}: {days} at {100 * use:.0f} % of the peak ({basis})"
