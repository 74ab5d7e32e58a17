from pathlib import Path

import pandas as pd
import pytest

from experiments.metrics import METRICS

FOLDER = Path(__file__).parents[2] / "results" / "paper"
FILES = sorted(FOLDER.glob("*.csv"))
COLUMNS = ["dataset", "model", "method", "metric", "value", "std", "unit", "n_seeds", "source"]


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def test_every_table_and_figure_has_a_file():
    names = {path.stem for path in FILES}
    assert {f"table{n}" for n in range(1, 14)} <= names
    assert {"fig1a", "fig1b", "fig1c", "fig2a", "fig2b", "fig2c", "fig4", "fig7"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_well_formed(path):
    frame = pd.read_csv(path)
    assert list(frame.columns) == COLUMNS
    for column in ("value", "std", "n_seeds"):
        pd.to_numeric(frame[column])
    assert frame["source"].notna().all()
    assert not frame.duplicated(["dataset", "model", "method", "metric"]).any()
    known = frame[frame["metric"].isin(list(METRICS))]
    units = set(zip(known["metric"], known["unit"], strict=True))
    if path.stem != "table3":  # prints AUROC in percent
        assert all(unit == METRICS[metric].unit for metric, unit in units)


@pytest.mark.parametrize("name", ["table9", "table10"])
def test_tables_that_repeat_runs_of_table1_repeat_its_numbers(name):
    key = ["dataset", "model", "method", "metric"]
    both = read(name).dropna(subset="value").merge(read("table1"), on=key)
    assert len(both) == 40  # 2 networks, 4 methods, 5 metrics
    assert (both["value_x"] == both["value_y"]).all()
    assert (both["std_x"] == both["std_y"]).all()


def test_headline_numbers_of_table1():
    imagenet = (
        read("table1").query("dataset == 'ImageNet'").set_index(["method", "metric"])["value"].sort_index()
    )
    assert imagenet["IVON", "top1_acc"] == 77.46
    assert imagenet["AdamW", "top1_acc"] == 75.16
    assert imagenet["IVON", "ece"] == 0.022


def test_final_errors_of_figure_1b_agree_with_the_accuracies_of_table1():
    errors = read("fig1b").query("metric == 'final_val_error'").set_index("method")["value"]
    accuracy = (
        read("table1").query("dataset == 'ImageNet' and metric == 'top1_acc'").set_index("method")["value"]
    )
    # Read from a picture with an error of about 0.1.
    assert errors["AdamW"] == pytest.approx(100 - accuracy["AdamW"], abs=0.15)
    assert errors["IVON"] == pytest.approx(100 - accuracy["IVON@mean"], abs=0.15)
