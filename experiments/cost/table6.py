"""Table 6: time and memory of the optimizers, ResNet-20 on CIFAR-10 and GPT-2.

The paper's row of VOGN has settings that are lost. Any do for its cost, which does not depend on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from baselines.settings import VOGN
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import CostSpec, TrainSpec
from experiments.gpt2.grid import training
from experiments.in_domain.table2 import in_domain_training

if TYPE_CHECKING:
    import pandas as pd

METHODS = {  # the paper's four, then others
    "adamw": "AdamW",
    "sgd": "SGD",
    "vogn": "VOGN",
    "ivon": "IVON",
    "adahessian": "AdaHessian",
    "bbb": "BBB",
    "mc_dropout": "MC-dropout",
    "swag": "SWAG",
}
LANGUAGE_METHODS = {"adamw": "AdamW", "ivon": "IVON"}
LANGUAGE_MODELS: dict[Scale, tuple[str, ...]] = {
    "demo": ("gpt2-mini",),
    "small": ("gpt2-mini",),
    "paper": ("gpt2-small", "gpt2-medium"),
}
GPUS = 8  # that share a step of the paper's GPT-2: one of them is measured
TEXT = "python-docs:gpt2"  # at hand on every machine; what the tokens are does not matter to their cost
RATIOS = (("VOGN", "IVON"), ("IVON", "AdamW"))
TURNS: dict[Scale, dict[str, int]] = {  # a step of ResNet-20 takes half a second on one CPU core
    "demo": {"steps": 20, "rounds": 5},
    "small": {"steps": 8, "rounds": 5},
    "paper": {"steps": 20, "rounds": 10},
}
COLUMNS = {
    "step_time": "Step (ms)",
    "runtime": "Training (h)",
    "gpu_memory": "Peak memory (GB)",
    "kept": "Kept (bytes a weight)",
}
CLOCKS = {
    "processor": "processor time of one thread",
    "wall": "time of the clock, the device synchronised",
}
LEGEND = (
    "Median of the rounds (lowest to highest). Memory: at the peak of a step, what PyTorch has allocated for "
    "weights, gradients, activations and optimizer, without the data. Kept: what the method adds to the "
    "weights between two steps. Empty: not measured, or not published."
)


def vogn_training(scale: Scale) -> TrainSpec:
    """A training whose learning rate is small enough for all steps to be finite."""
    return in_domain_training("sgd", 0, scale).model_copy(update={"method": VOGN(lr=1e-4)})


def cost_spec(scale: Scale) -> CostSpec:
    """All methods in turns."""
    compared = tuple(
        vogn_training(scale) if name == "vogn" else in_domain_training(name, 0, scale) for name in METHODS
    )
    return CostSpec(compared=compared, **TURNS[scale])


def language_cost_specs(scale: Scale) -> list[CostSpec]:
    """AdamW and IVON in turns, for each size of GPT-2."""
    found = []
    for model in LANGUAGE_MODELS[scale]:
        compared = [training(model, name, 0, scale) for name in LANGUAGE_METHODS]
        if scale == "paper":
            share = {"corpus": TEXT, "batch_size": compared[0].batch_size // GPUS}
            compared = [spec.model_copy(update=share) for spec in compared]
        found.append(CostSpec(compared=tuple(compared), **TURNS[scale]))
    return found


def paper_ratios(costs: pd.DataFrame) -> pd.DataFrame:
    """The published ratios, and those of the published hours where none is printed, network by network."""
    import pandas as pd

    from experiments.image_classification.frames import published

    ratios = published("table6_ratios")
    ratio_of = {(row["model"], row["method"]): row for row in ratios.to_dict("records")}
    hours = costs[costs["metric"] == "runtime"].dropna(subset="value")
    hours_of = hours.set_index(["dataset", "model", "method"])["value"]
    rows = []
    for dataset, model in dict.fromkeys(zip(hours["dataset"], hours["model"], strict=True)):
        for one, other in RATIOS:
            keys = [(dataset, model, one), (dataset, model, other)]
            if all(key in hours_of.index for key in keys):
                row = {
                    "dataset": dataset,
                    "model": model,
                    "method": f"{one} / {other}",
                    "metric": "runtime_ratio",
                    "value": hours_of[keys[0]] / hours_of[keys[1]],
                    "source": "computed from the hours of paper v1, Table 6",
                }
                rows.append(ratio_of.get((model, row["method"]), row))
    return pd.DataFrame(rows)


def _measured_on(specs: list[CostSpec], store: Store) -> str:
    """Device and clock, for each network by itself where they are not the same."""
    from experiments.cost.frames import pair_of

    networks: dict[str, list[str]] = {}
    for spec in specs:
        if record := store.done(spec):
            clock = CLOCKS[record["result"]["clock"]]
            place = f"measured on {record['machine']['device']} ({clock})"
            networks.setdefault(place, []).append(pair_of(spec.compared[0])[1])
    if len(networks) == 1:
        return next(iter(networks))
    return "; ".join(f"{', '.join(names)} {place}" for place, names in networks.items())


def _words(specs: list[CostSpec], scale: Scale, store: Store) -> str:
    from experiments.cost.frames import PROTOCOL_EPOCHS

    spec, language = specs[:2]
    where = "" if scale == "paper" else f"scale {scale}; "
    missing = sum(store.done(s) is None for s in specs)
    lacking = f" {missing} of {len(specs)} measurements are missing." if missing else ""
    return (
        f"Table 6: time and memory of the optimizers. Ours: {where}{_measured_on(specs, store)}; "
        f"methods take turns in one process, {spec.rounds} rounds of "
        f"{spec.steps} steps with the same batches, of {spec.compared[0].batch_size} images or "
        f"{language.compared[0].batch_size} windows of text.{lacking} Hours are "
        f"extrapolated from seconds a step to the steps of {PROTOCOL_EPOCHS} epochs, without loading, "
        "evaluation, or what SWAG does at the end of epochs. The paper's are those of its own GPU, measured "
        "in a way it does not say. VOGN's settings are not the paper's, which are lost; with one draw a step "
        "its cost does not depend on them. Hours of GPT-2 are for 100,000 steps; at the paper's scale those "
        "of one of eight GPUs and its share of the windows, without what they tell each other."
    )


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    import pandas as pd

    from experiments.cost.frames import cost_frame, ratio_frame
    from experiments.image_classification.frames import measured, published
    from plots import cost_table

    spec, labels = cost_spec(scale), list(METHODS.values())
    both = [(spec, labels), *((s, list(LANGUAGE_METHODS.values())) for s in language_cost_specs(scale))]
    costs = measured(pd.concat([cost_frame(s, names, store) for s, names in both]), "table6", scale)
    ratios = pd.concat([ratio_frame(s, names, RATIOS, store) for s, names in both])
    of_paper = published("table6")
    of_methods = cost_table.beside(costs, of_paper)
    of_ratios = cost_table.beside(ratios, paper_ratios(of_paper))
    grids = [
        cost_table.grid(of_methods, COLUMNS, published=("runtime", "gpu_memory"), ranges=("step_time",)),
        cost_table.grid(
            of_ratios,
            {"runtime_ratio": "Ratio of times"},
            published=("runtime_ratio",),
            ranges=("runtime_ratio",),
        ),
    ]
    numbers = pd.concat([of_methods, of_ratios], ignore_index=True)
    return cost_table.write(
        folder / "table6", grids, numbers, _words([s for s, _ in both], scale, store), LEGEND
    )


TABLE6 = Artefact(
    name="table6",
    title="Table 6: time and memory of the optimizers.",
    runs=lambda scale: [cost_spec(scale), *language_cost_specs(scale)],
    render=_render,
)
