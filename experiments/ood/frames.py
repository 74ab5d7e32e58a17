"""From records of looks at images from elsewhere to data frames."""

from collections.abc import Sequence

import pandas as pd

from experiments.data.ood import OOD_SETS
from experiments.engine.record import Store
from experiments.engine.spec import OodSpec
from experiments.image_classification.frames import pair_of, run_of


def block_of(spec: OodSpec) -> dict[str, str]:
    """The block of a table: `CIFAR-10 vs SVHN` and the network."""
    pair = pair_of(spec.look.train)
    return {**pair, "dataset": f"{pair['dataset']} vs {OOD_SETS[spec.outside].title}"}


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
    return {**run_of(spec.look), **block_of(spec)}
