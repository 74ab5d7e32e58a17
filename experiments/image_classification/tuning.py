"""How the demo's learning rates were chosen: the same budget for every method, on held-out training images.

For each method, six learning rates around the paper's value, two seeds each, trained on 80 % of the demo's
training images and judged on the other 20 % by the NLL of what the method predicts with (IVON: the average
over posterior draws). The test set is not looked at. `grid.DEMO_LR` holds the winners, and a test compares it
with the published records.
"""

from pathlib import Path

import pandas as pd

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.image_classification.frames import caption, measured
from experiments.image_classification.grid import TABLE1_METHODS, evaluations, training
from experiments.image_classification.methods import LABELS, paper_method
from plots import tables

# AdaHessian late, as it takes as long as the first three together.
METHODS = (*TABLE1_METHODS, "adahessian", "bbb", "mc_dropout", "swag")
HOLDOUT = 0.2
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0, 27.0)
SEEDS = range(100, 102)  # none that the demo's table uses


def learning_rates(method: str) -> list[float]:
    """Six rates, a factor of three apart, from a ninth of the paper's upwards; three significant digits."""
    paper = paper_method(method, "digits").lr  # type: ignore[attr-defined]
    return [float(f"{paper * factor:.3g}") for factor in FACTORS]


def trial(method: str, lr: float, seed: int) -> EvalSpec:
    """One training of the demo's Table 1 network with another learning rate, judged on held-out images."""
    demo = training("digits", "resnet20", method, seed, "demo")
    settings = demo.method.model_copy(update={"lr": lr})
    train = TrainSpec.model_validate({**dict(demo), "method": settings, "holdout": HOLDOUT})
    return evaluations(train)[-1]


def _trials(scale: Scale) -> list[EvalSpec]:
    return [trial(method, lr, seed) for method in METHODS for lr in learning_rates(method) for seed in SEEDS]


def trials_frame(store: Store) -> pd.DataFrame:
    """method, lr, seed, nll (nats), accuracy (percent) on the held-out images; a diverged run has infinite
    NLL.
    """
    rows = []
    for spec in _trials("demo"):
        row = {"method": spec.train.method.name, "lr": spec.train.method.lr, "seed": spec.train.seed}
        if record := store.done(spec):
            metrics = record["result"]["metrics"]
            rows.append({**row, "nll": metrics["nll"], "accuracy": metrics["top1_acc"]})
        elif store.is_over(spec.train) and not store.done(spec.train):
            rows.append({**row, "nll": float("inf"), "accuracy": float("nan")})
    return pd.DataFrame(rows, columns=["method", "lr", "seed", "nll", "accuracy"])


def winners(trials: pd.DataFrame) -> dict[str, float]:
    """The learning rate with the lowest mean held-out NLL, for each method."""
    means = trials.groupby(["method", "lr"]).nll.mean()
    return {method: means[method].idxmin() for method in means.index.levels[0]}


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    trials = measured(trials_frame(store), "tuning", scale)
    means = trials.groupby(["method", "lr"], sort=False)[["nll", "accuracy"]].mean().reset_index()
    best = winners(trials)
    means["chosen"] = [
        "yes" if best.get(m) == lr else "" for m, lr in zip(means.method, means.lr, strict=True)
    ]
    means["method"] = means["method"].map(LABELS)
    specs = _trials(scale)
    words = caption(
        f"Learning rates of the demo, judged on {HOLDOUT:.0%} of the training images; {len(SEEDS)} seeds.",
        scale,
        specs,
        store,
    )
    return tables.write_plain(folder / "tuning", means, words)


TUNING = Artefact(
    name="tuning",
    title="The choice of the demo's learning rates.",
    runs=lambda scale: list(_trials(scale)),
    render=_render,
    scales=("demo",),
)
