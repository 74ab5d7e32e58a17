"""From records of looks with several numbers of draws, and from the paper's Figure 4, to data frames."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.engine.record import Store
from experiments.engine.spec import DrawSweepSpec, EvalSpec
from experiments.image_classification.frames import published, run_of, whole_seeds

SHOWN = ["top1_acc", "nll", "ece", "brier"]
AVERAGE = "IVON"  # over posterior draws; IVON@mean takes none
COLUMNS = ["dataset", "model", "varied", "method", "seed", "draws", *SHOWN]


def draws_frame(
    at_test: Sequence[DrawSweepSpec], in_training: Sequence[EvalSpec], store: Store
) -> pd.DataFrame:
    """dataset, model, varied ("test draws" or "training draws"), method, seed, draws, top1_acc (percent), nll
    (nats), ece, brier: a row a look. The mean of a network trained with one draw stands with the test draws
    too, where it has no number of draws.
    """
    rows: list[dict[str, Any]] = []
    for sweep in at_test:
        if record := store.done(sweep):
            row = _of(sweep.look, "test draws")
            rows += [{**row, **point} for point in record["result"]["sweep"]]
    for look in in_training:
        if record := store.done(look):
            metrics = {name: record["result"]["metrics"][name] for name in SHOWN}
            draws = look.train.method.mc_samples  # type: ignore[union-attr]
            rows.append({**_of(look, "training draws"), "draws": draws, **metrics})
            if draws == 1 and not look.draws:
                rows.append({**_of(look, "test draws"), **metrics})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"draws": "Int64"})


def of_whole_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each panel (`varied`) the rows of those seeds that have every number of draws found there: the mean
    is then that of the networks whose average is drawn, too.
    """
    panels = []
    for _, rows in frame.groupby("varied", sort=False):
        averages = rows[rows["method"] == AVERAGE]
        panels.append(rows[rows["seed"].isin(whole_seeds(averages, "draws"))] if len(averages) else rows)
    return pd.concat(panels).sort_index() if panels else frame


def _of(look: EvalSpec, varied: str) -> dict[str, Any]:
    return {**run_of(look), "varied": varied}


def published_draws() -> pd.DataFrame:
    """dataset, model, varied, method, draws, top1_acc, nll, as far as known: the paper's test draws."""
    known = published("fig4").dropna(subset="value")
    wide = known.pivot(index=["dataset", "model", "method"], columns="metric", values="value").reset_index()
    draws = wide["method"].str.extract(r", (\d+) test draws?$")[0]
    varied = wide.assign(
        varied="test draws",
        draws=pd.to_numeric(draws).astype("Int64"),
        method=wide["method"].str.partition(",")[0],
    )
    return varied.sort_values("draws")[["dataset", "model", "varied", "method", "draws", "top1_acc", "nll"]]
