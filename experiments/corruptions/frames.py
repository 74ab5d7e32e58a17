"""From records of looks at corrupted images to a data frame."""

from collections.abc import Sequence

import pandas as pd

from experiments.engine.record import Store
from experiments.engine.spec import CorruptedSpec
from experiments.image_classification.frames import run_of, whole_seeds


def severity_frame(specs: Sequence[CorruptedSpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, severity, metric, value: a row a mean over corruptions."""
    rows = [
        {**run_of(spec.look), "severity": spec.severity, "metric": name, "value": value}
        for spec in specs
        if (record := store.done(spec))
        for name, value in record["result"]["metrics"].items()
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "seed", "severity", "metric", "value"])


def of_whole_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each method the rows of those seeds that have every severity it has been looked at with."""
    methods = [
        rows[rows["seed"].isin(whole_seeds(rows, "severity"))]
        for _, rows in frame.groupby("method", sort=False)
    ]
    return pd.concat(methods).sort_index() if methods else frame
