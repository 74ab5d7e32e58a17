"""From records of measured costs to data frames."""

from collections.abc import Sequence

import pandas as pd

from experiments.data.text.corpora import corpus
from experiments.engine.record import Store
from experiments.engine.spec import CostSpec, LanguageSpec, TrainSpec
from experiments.gpt2.frames import PAPER_LABELS, model_label
from experiments.image_classification.frames import pair_of as image_pair

PROTOCOL_EPOCHS = 200  # Sec. C.2, at every scale
PROTOCOL_STEPS = 100_000  # of GPT-2, Sec. C.1
COLUMNS = ["dataset", "model", "method", "metric", "value", "low", "high", "rounds"]


def pair_of(train: TrainSpec | LanguageSpec) -> tuple[str, str]:
    """Data set and network, as tables show them; GPT-2 costs the same on any text."""
    if isinstance(train, LanguageSpec):
        label = model_label(train)
        of_paper = label in PAPER_LABELS.values()
        return ("OpenWebText" if of_paper else corpus(train.corpus).title), label
    pair = image_pair(train)
    return pair["dataset"], pair["model"]


def cost_frame(spec: CostSpec, labels: Sequence[str], store: Store) -> pd.DataFrame:
    """dataset, model, method, metric, value, low, high, rounds: a row a number, none without a record.

    `labels` name the compared trainings. Metrics: step_time (ms) and runtime (hours, for as many steps as 200
    epochs have, or 100,000 of GPT-2): median, lowest and highest of the rounds; gpu_memory (GB) at the peak
    of a step; kept (bytes a weight) by the method between two steps.
    """
    record = store.done(spec)
    rows = []
    for train, label, cost in zip(spec.compared, labels, costs_of(record), strict=False):
        steps = PROTOCOL_STEPS if isinstance(train, LanguageSpec) else PROTOCOL_EPOCHS * train.steps_per_epoch
        seconds = pd.Series(cost["step_seconds"])
        found = {
            "step_time": 1e3 * seconds,
            "runtime": seconds * steps / 3600,
            "gpu_memory": pd.Series([cost["peak_bytes"] / 1e9]),
            "kept": pd.Series([cost["kept_bytes"] / record["result"]["parameters"]]),  # type: ignore[index]
        }
        rows += [(*pair_of(train), label, metric, *_summary(values)) for metric, values in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def ratio_frame(
    spec: CostSpec, labels: Sequence[str], ratios: Sequence[tuple[str, str]], store: Store
) -> pd.DataFrame:
    """The same columns for `runtime_ratio` of pairs of methods: of their turns in the same round."""
    costs = costs_of(store.done(spec))
    seconds = dict(zip(labels, (pd.Series(cost["step_seconds"]) for cost in costs), strict=False))
    rows = [
        (
            *pair_of(spec.compared[0]),
            f"{one} / {other}",
            "runtime_ratio",
            *_summary(seconds[one] / seconds[other]),
        )
        for one, other in ratios
        if one in seconds and other in seconds
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def costs_of(record: dict | None) -> list[dict]:
    """Those of a record, method by method; none without one."""
    return record["result"]["costs"] if record else []


def _summary(values: pd.Series) -> tuple[float, float, float, int]:
    return float(values.median()), float(values.min()), float(values.max()), len(values)
