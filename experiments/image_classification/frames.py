"""From records to the data frames that tables and figures are drawn from."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.data import DATASETS
from experiments.engine.artefact import Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, MixtureSpec, TrainSpec
from experiments.errors import RunError
from experiments.image_classification.methods import LABELS, label_of
from experiments.models import MODELS

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "paper"


Look = EvalSpec | MixtureSpec

MIXTURES = {"sgd": "Deep ensemble", "ivon": "Multi-IVON"}


def method_label(spec: Look) -> str:
    """The row of a table: `IVON@mean` is IVON's point estimate."""
    train = spec.trainings[0]
    if isinstance(spec, MixtureSpec):
        return MIXTURES[train.method.name]
    return label_of(train) + ("@mean" if train.method.name == "ivon" and not spec.draws else "")


def pair_of(spec: TrainSpec) -> dict[str, str]:
    """Data set and network, as shown."""
    model = MODELS[spec.model].title + (f" (width {spec.width})" if spec.width else "")
    return {"dataset": DATASETS[spec.dataset].title, "model": model}


def run_of(spec: Look) -> dict[str, object]:
    """What tells the rows of a run from others: dataset, model, method, seed."""
    train = spec.trainings[0]
    return {**pair_of(train), "method": method_label(spec), "seed": train.seed}


def metrics_frame(specs: Sequence[Look], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, metric, value: a row a number. Runs without a record have no rows."""
    rows = [
        {**run, "metric": name, "value": value}
        for spec in specs
        if (record := store.done(spec))
        for run in [run_of(spec)]
        for name, value in record["result"]["metrics"].items()
        if value is not None
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "seed", "metric", "value"])


def history_frame(specs: list[TrainSpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, epoch, step, train_nll, train_error, nll, error: a row a point of the
    curves, whose test numbers are those of the point estimate.
    """
    rows = [
        {**run_of(EvalSpec(train=spec)), **point}
        for spec in specs
        if (record := store.done(spec))
        for point in record["result"]["history"]
    ]
    numbers = ["epoch", "step", "train_nll", "train_error", "nll", "error"]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "seed", *numbers])


def reliability_frame(specs: Sequence[Look], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, bin, confidence, accuracy, count, ece: a row a bin."""
    rows = [
        {
            **run_of(spec),
            "bin": index,
            "confidence": bins["confidence"][index],
            "accuracy": bins["accuracy"][index],
            "count": bins["count"][index],
            "ece": record["result"]["metrics"]["ece"],
        }
        for spec in specs
        if (record := store.done(spec))
        for bins in [record["result"]["reliability"]]
        for index in range(len(bins["count"]))
    ]
    columns = ["dataset", "model", "method", "seed", "bin", "confidence", "accuracy", "count", "ece"]
    return pd.DataFrame(rows, columns=columns)


def measured(frame: pd.DataFrame, name: str, scale: Scale) -> pd.DataFrame:
    """`frame` unless it is empty: there is nothing to draw before the first run is done."""
    if frame.empty:
        raise RunError(f"no finished run of {name} at scale {scale}: run it first")
    return frame


def by_split(history: pd.DataFrame) -> pd.DataFrame:
    """The curves with a row for each split: `split` ("train" or "test"), nll, error in place of the four
    columns.
    """
    train = history.drop(columns=["nll", "error"]).rename(
        columns={"train_nll": "nll", "train_error": "error"}
    )
    test = history.drop(columns=["train_nll", "train_error"])
    return pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)


def pairs_of(specs: Sequence[Look]) -> list[tuple[str, str]]:
    """Data set and network of the table's blocks, as shown, in their order."""
    pairs = [pair_of(spec.trainings[0]) for spec in specs]
    return list(dict.fromkeys((pair["dataset"], pair["model"]) for pair in pairs))


def methods_of(specs: Sequence[Look]) -> list[str]:
    """The rows of a table, in the order of the block that has the most of them."""
    blocks: dict[tuple[str, str], dict[str, None]] = {}
    for dataset, model, method in rows_of(specs):
        blocks.setdefault((dataset, model), {})[method] = None
    return list(max(blocks.values(), key=len) | {method: None for each in blocks.values() for method in each})


def rows_of(specs: Sequence[Look]) -> list[tuple[str, str, str]]:
    """Data set, network and method of each row of a table, as shown."""
    rows = [(*pair_of(spec.trainings[0]).values(), method_label(spec)) for spec in specs]
    return list(dict.fromkeys(rows))


def published(name: str) -> pd.DataFrame:
    """The paper's numbers for artefact `name`: dataset, model, method, metric, value, std, unit, n_seeds,
    source. Its BBB is the one of the released code.
    """
    return pd.read_csv(PUBLISHED / f"{name}.csv").replace({"method": {LABELS["bbb"]: LABELS["bbb_released"]}})


def whole_seeds(rows: pd.DataFrame, x: str) -> list[int]:
    """The seeds that have every value of x found in `rows`; all of them if none has.

    Seeds differ by more than neighbours along x do: one with its share in some of the points alone would bend
    the curve of the means.
    """
    found = rows.groupby("seed")[x].nunique()
    return list(found.index[found == rows[x].nunique()]) or list(found.index)
