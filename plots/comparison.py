"""Our runs and the published numbers side by side: one row per data set, network, method and metric."""

from collections.abc import Iterable

import pandas as pd

CELL = ["dataset", "model", "method", "metric"]


def compare(ours: pd.DataFrame, paper: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Mean, standard deviation and number of our seeds beside the paper's value, for these metrics.

    ours: columns dataset, model, method, metric, value, seed; one row per seed. Rows without a value do not
    count.
    paper: columns dataset, model, method, metric, value, std, unit, n_seeds, source; an empty value was not
    recovered.

    Returns columns dataset, model, method, metric, mean, std, n, paper_value, paper_std, paper_n,
    paper_source; NaN where there is nothing. `std` divides by n - 1 and is NaN for one seed.
    """
    twice = ours[ours.duplicated([*CELL, "seed"])]
    if len(twice):
        raise ValueError(f"two values for one seed: {twice.iloc[0][[*CELL, 'seed']].to_dict()}")
    wanted = list(metrics)
    measured = ours[ours["metric"].isin(wanted)].assign(value=lambda rows: pd.to_numeric(rows["value"]))
    summary = measured.groupby(CELL, sort=False)["value"].agg(mean="mean", std="std", n="count").reset_index()
    published = paper[paper["metric"].isin(wanted)]
    published = published.rename(
        columns={"value": "paper_value", "std": "paper_std", "n_seeds": "paper_n", "source": "paper_source"}
    )
    numbers = ["paper_value", "paper_std", "paper_n"]
    published = published[[*CELL, *numbers, "paper_source"]].assign(
        **{name: pd.to_numeric(published[name]) for name in numbers}
    )
    both = summary.merge(published, on=CELL, how="outer", sort=False, validate="one_to_one")
    return both.assign(n=both["n"].fillna(0).astype(int))


def pairs_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """The (data set, network) pairs of a frame, each once, in the order they come."""
    pairs = frame[["dataset", "model"]].drop_duplicates()
    return list(zip(pairs["dataset"], pairs["model"], strict=True))
