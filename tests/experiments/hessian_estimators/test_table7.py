"""Table 7: which runs it shares with Table 2, and what it says of estimators that fail."""

import pytest

from experiments.artefacts import ARTEFACTS
from experiments.engine.record import Store
from experiments.engine.spec import CostSpec, EvalSpec
from experiments.hessian_estimators import table7
from experiments.image_classification.frames import published

METRICS = ("top1_acc", "nll", "ece", "brier")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


def add_quality(store: Store, estimator: str) -> None:
    for name, spec in table7.looks("demo"):
        if name == estimator:
            metrics = dict.fromkeys(METRICS, 0.1 + spec.train.seed / 10)
            result = {"metrics": metrics, "seconds": 1.0}
            store.add(spec, {"failure": None, "result": result, "machine": {"device": "a machine"}})


def rows_of(paths) -> dict[str, list[str]]:
    text = next(path.read_text() for path in paths if path.suffix == ".md")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return {row[0].strip("*"): row[1:] for row in reversed(rows)}  # ours come first


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_ivon_is_that_of_table2_and_others_differ_in_the_estimator_alone(scale):
    of_table2 = {spec.id for spec in ARTEFACTS["table2"].runs(scale)}
    for name, spec in table7.looks(scale):
        assert (spec.id in of_table2) == (name == "price")
        assert spec.draws == 64
        assert spec.train.method.hess_approx == name
        as_ivon = spec.train.method.model_copy(update={"hess_approx": "price"})
        assert as_ivon == table7.estimator_training("price", spec.train.seed, scale).method


def test_each_seed_has_its_costs_of_all_estimators():
    runs = ARTEFACTS["table7"].runs("paper")
    costs = [spec for spec in runs if isinstance(spec, CostSpec)]
    looks = [spec for spec in runs if isinstance(spec, EvalSpec)]
    assert [spec.compared[0].seed for spec in costs] == list(range(5))
    assert len(looks) == 5 * len(table7.ESTIMATORS)
    for spec in costs:
        assert [train.method.hess_approx for train in spec.compared] == list(table7.ESTIMATORS)


def test_published_rows_have_names_of_ours():
    assert set(published("table7")["method"]) == set(table7.PUBLISHED_AS)
    assert set(table7.PUBLISHED_AS.values()) < set(table7.ESTIMATORS.values())


def test_a_diverged_estimator_is_an_empty_row_and_the_caption_says_so(store, tmp_path):
    add_quality(store, "price")
    failure = {"reason": "loss is not finite in epoch 0, step 3", "epoch": 0, "step": 3}
    for name, spec in table7.looks("demo"):
        if name == "gradsq":
            store.add(spec.train, {"failure": failure, "result": {}, "machine": {}})
    paths = ARTEFACTS["table7"].render("demo", store, tmp_path / "out")
    rows = rows_of(paths)
    assert rows[table7.ESTIMATORS["price"]][0] == "5"
    assert not any(rows[table7.ESTIMATORS["gradsq"]])
    assert not any(rows[table7.ESTIMATORS["ggn"]])
    text = (tmp_path / "out" / "table7.md").read_text()
    assert f"Diverged, and so without numbers: {table7.ESTIMATORS['gradsq']} (5 of 5 trainings)." in text
    assert "15 of 25 runs are missing" in text


def test_costs_come_from_the_side_by_side_measurement(store):
    (spec, *_) = table7.costs("demo")
    costs = [
        {"step_seconds": [0.001 * (i + 1)] * 3, "peak_bytes": 1_000_000 * (i + 1), "kept_bytes": 80}
        for i in range(4)
    ]
    result = {"clock": "processor", "parameters": 10, "costs": costs, "seconds": 1.0}
    store.add(spec, {"failure": None, "result": result, "machine": {"device": "a machine"}})
    frame = table7.frame("demo", store).set_index(["method", "metric"])["value"]
    assert frame[table7.ESTIMATORS["ggn"], "step_time"] == pytest.approx(4.0)  # ms
    assert frame[table7.ESTIMATORS["sg"], "gpu_memory"] == pytest.approx(2.0)  # MB
