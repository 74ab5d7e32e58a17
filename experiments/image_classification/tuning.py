"""How the demo's settings were chosen: the same budget for every method, on held-out training images.

For each method, six learning rates around the paper's value, two seeds each, trained on 80 % of the demo's
training images and judged on the other 20 % by the NLL of what the method predicts with (IVON: the average
over posterior draws). The test set is not looked at. `grid.DEMO_LR` holds the winners, and a test compares it
with the published records.

VOGN has no published settings to start from, and its damping bounds the width of its posterior: it gets the
six rates at each of three dampings, three times the budget of the others. Its NLL falls with the damping, and
in the limit VOGN is SGD at lr / damping, whose best is lower still: the range ends where the posterior is at
most a third as wide as IVON's is at the start, since a wider range would choose a point estimate. At scale
small, where the other methods keep the paper's settings, the same search is declared for VOGN on CIFAR-10.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.grid import TABLE1_METHODS, evaluations, training
from experiments.image_classification.methods import CIFAR, LABELS

if TYPE_CHECKING:
    import pandas as pd

# The slow ones late: AdaHessian and VOGN take as long as the first three together.
METHODS: dict[Scale, tuple[str, ...]] = {
    "demo": (*TABLE1_METHODS, "adahessian", "bbb", "mc_dropout", "swag", "vogn"),
    "small": ("vogn",),
}
HOLDOUT = 0.2
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0, 27.0)
# damping * N of VOGN; the middle one gives its posterior at most the width that IVON's starts with.
DAMPED = (2_500, 25_000, 250_000)
VOGN_RATIO = 0.1  # lr / damping of the source's CIFAR-10 run
SEEDS = range(100, 102)  # none that the demo's table uses
SETTINGS = ["lr", "damping"]


def candidates(method: str, train_size: int) -> list[dict[str, float]]:
    """Settings to try: six rates, a factor of three apart, from a ninth of the paper's upwards; three
    significant digits.
    """
    if method != "vogn":
        paper = CIFAR[method].lr
        return [{"lr": _rounded(paper * factor)} for factor in FACTORS]
    return [
        {"lr": _rounded(VOGN_RATIO * factor * damping), "damping": damping}
        for damping in (_rounded(damped / train_size) for damped in DAMPED)
        for factor in FACTORS
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def trial(spec: TrainSpec, settings: dict[str, float]) -> EvalSpec:
    """A training of Table 1's network or of CIFAR-10's with other settings, judged on held-out images."""
    method = spec.method.model_copy(update=settings)
    return evaluations(TrainSpec.model_validate({**dict(spec), "method": method, "holdout": HOLDOUT}))[-1]


def _trials(scale: Scale) -> list[EvalSpec]:
    dataset = "digits" if scale == "demo" else "cifar10"
    return [
        trial(training(dataset, "resnet20", method, seed, scale), settings)
        for method in METHODS[scale]
        for settings in candidates(method, training(dataset, "resnet20", method, 0, scale).train_size)
        for seed in SEEDS
    ]


def trials_frame(store: Store, scale: Scale = "demo") -> pd.DataFrame:
    """method, lr, damping (NaN: none), seed, nll (nats), accuracy (percent) on the held-out images; a
    diverged run has infinite NLL.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for spec in _trials(scale):
        method = spec.train.method
        settings = {name: getattr(method, name, float("nan")) for name in SETTINGS}
        row = {"method": method.name, **settings, "seed": spec.train.seed}
        if record := store.done(spec):
            metrics = record["result"]["metrics"]
            rows.append({**row, "nll": metrics["nll"], "accuracy": metrics["top1_acc"]})
        elif (ended := store.load(spec.train)) and ended["failure"]:
            rows.append({**row, "nll": float("inf"), "accuracy": float("nan")})
    return pd.DataFrame(rows, columns=["method", *SETTINGS, "seed", "nll", "accuracy"])


def means_over_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """method, lr, damping, nll, accuracy, chosen: the lowest mean NLL of each method is."""
    by = trials.groupby(["method", *SETTINGS], sort=False, dropna=False)
    means = by[["nll", "accuracy"]].mean().reset_index()
    return means.assign(chosen=means.index.isin(means.groupby("method").nll.idxmin()))


def winners(trials: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The settings with the lowest mean held-out NLL, for each method."""
    means = means_over_seeds(trials)
    best = means[means.chosen].set_index("method")[SETTINGS]
    return {str(method): row.dropna().astype(object).to_dict() for method, row in best.iterrows()}


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    import pandas as pd

    from experiments.image_classification.frames import measured
    from plots import tables

    trials = measured(trials_frame(store, scale), "tuning", scale)
    means = means_over_seeds(trials)
    shown = means.assign(
        method=means["method"].map(LABELS),
        damping=means["damping"].map(lambda value: "" if pd.isna(value) else f"{value:g}"),
        chosen=means["chosen"].map({True: "yes", False: ""}),
    )
    words = caption(
        f"Settings judged on {HOLDOUT:.0%} of the training images; {len(SEEDS)} seeds. VOGN is "
        f"searched over {len(DAMPED)} dampings too.",
        scale,
        _trials(scale),
        store,
    )
    return tables.write_plain(folder / "tuning", shown, words)


TUNING = Artefact(
    name="tuning",
    title="The choice of the demo's settings, and of VOGN's.",
    runs=_trials,
    render=_render,
    scales=("demo", "small"),
)
