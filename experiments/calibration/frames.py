"""From records about calibration to data frames."""

from collections.abc import Sequence

import pandas as pd

from experiments.engine.record import Store
from experiments.engine.spec import TemperatureSpec
from experiments.image_classification.frames import method_label, run_of

PREDICTED, SCALED = "as predicted", "temperature-scaled"
SIDES = {"metrics_before": PREDICTED, "metrics": SCALED}  # in the result of a record


def temperature_frame(specs: Sequence[TemperatureSpec], store: Store) -> pd.DataFrame:
    """dataset, model, side (`PREDICTED` or `SCALED`), method, seed, metric, value: a row a number."""
    rows = [
        {**run_of(spec.look), "side": side, "metric": name, "value": value}
        for spec in specs
        if (record := store.done(spec))
        for part, side in SIDES.items()
        for name, value in record["result"][part].items()
        if value is not None
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "side", "method", "seed", "metric", "value"])


def mean_temperatures(specs: Sequence[TemperatureSpec], store: Store) -> dict[str, float]:
    """Per method the mean temperature over both halves and all seeds."""
    rows = [
        {"method": method_label(spec.look), "temperature": temperature}
        for spec in specs
        if (record := store.done(spec))
        for temperature in record["result"]["temperatures"]
    ]
    frame = pd.DataFrame(rows, columns=["method", "temperature"])
    return frame.groupby("method", sort=False)["temperature"].mean().to_dict()
