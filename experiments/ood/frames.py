"""From records of looks at images from elsewhere to data frames."""

from collections.abc import Sequence

import pandas as pd

from experiments.data import DATASETS
from experiments.data.ood import OOD_SETS
from experiments.engine.record import Store
from experiments.engine.spec import OodSpec
from experiments.image_classification.methods import LABELS
from experiments.models import MODELS


def block_of(spec: OodSpec) -> dict[str, str]:
    """The block of a table: `CIFAR-10 vs SVHN` and the network."""
    train = spec.look.train
    width = f" (width {train.width})" if train.width else ""
    return {
        "dataset": f"{DATASETS[train.dataset].title} vs {OOD_SETS[spec.outside].title}",
        "model": MODELS[train.model].title + width,
    }


def metrics_frame(specs: Sequence[OodSpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, metric, value: a row a number."""
    rows = [
        {**_run(spec), "metric": name, "value": value}
        for spec in specs
        if (record := store.done(spec))
        for name, value in record["result"]["metrics"].items()
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "seed", "metric", "value"])


def entropy_frame(specs: Sequence[OodSpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, side ("inside", "outside"), bin, bins, count: a row a bin."""
    rows = [
        {**_run(spec), "side": side, "bin": number, "bins": len(counts), "count": count}
        for spec in specs
        if (record := store.done(spec))
        for side, counts in record["result"]["entropy"].items()
        for number, count in enumerate(counts)
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "seed", "side", "bin", "bins", "count"])


def _run(spec: OodSpec) -> dict[str, object]:
    train = spec.look.train
    return {**block_of(spec), "method": LABELS[train.method.name], "seed": train.seed}
