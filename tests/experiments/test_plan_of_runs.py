"""What `plan` says of time, disk and data, and what it rests on."""

import io
import json

import pytest
import torch

from baselines import METHODS
from experiments.engine import checkpoint
from experiments.engine.distributed import single
from experiments.engine.estimate import Throughput, checkpoint_bytes, fraction_done
from experiments.engine.image_training import ImageTraining
from experiments.engine.measure import measure
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.plan import plan


def training(method: str = "sgd", draws: int = 1, **changes) -> TrainSpec:
    settings = METHODS[method](lr=0.1, **({"mc_samples": draws} if draws > 1 else {}))
    fields = {"dataset": "digits", "model": "resnet20", "width": 2, "epochs": 2, "batch_size": 500}
    return TrainSpec(**{**fields, "warmup_epochs": 0, "method": settings, **changes})


def record(store: Store, spec, seconds: float, **result) -> None:
    machine = {"device": "CPU, tested", "processes": 1}
    store.add(spec, {"failure": None, "result": {"seconds": seconds, **result}, "machine": machine})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_time_follows_the_steps_of_runs_like_it(store):
    record(store, training(), 8.0, steps=4)
    record(store, EvalSpec(train=training()), 797 * 0.5, images=797)
    known = Throughput([store], "cpu")
    longer = training(epochs=50, seed=3)
    assert known.seconds(longer) == pytest.approx(50 * 2 * 2.0)
    assert known.seconds(EvalSpec(train=longer, draws=64)) == pytest.approx(64 * 797 * 0.5)
    other = known.estimate(training("adamw"))
    assert other is not None and "sgd on CPU, tested, 1 measured" in other.basis
    assert known.estimate(training(width=3)) is None
    assert Throughput([store], "cuda").estimate(longer) is None  # measured on another kind of device


def test_the_same_method_counts_before_others(store):
    record(store, training(), 8.0, steps=4)
    record(store, training("adamw"), 40.0, steps=4)
    assert Throughput([store], "cpu").seconds(training("adamw", seed=9)) == pytest.approx(4 * 10.0)


def test_a_step_with_more_draws_takes_as_many_times_as_long(store):
    record(store, training("ivon"), 8.0, steps=4)
    many = Throughput([store], "cpu").estimate(training("ivon", draws=32))
    assert many is not None and many.seconds == pytest.approx(4 * 2.0 * 32)
    assert many.basis.startswith("64 s per step of resnet20 (width 2) with 32 draws (ivon")
    record(store, training("ivon", draws=4), 30.0, steps=4)  # a little less than four times as long
    assert Throughput([store], "cpu").seconds(training("ivon")) == pytest.approx(4 * (2.0 + 30 / 16) / 2)
    assert training("ivon", draws=4).effort == 4 * training("ivon").effort


def test_a_measurement_stands_in_for_records(store, monkeypatch):
    monkeypatch.setattr("experiments.engine.measure.STEPS", 5)
    spec = training()
    measured = measure(spec, store, "cpu")
    assert measured["steps"] > 0
    per_step = measured["seconds"] / measured["steps"]
    assert Throughput([store], "cpu").seconds(spec) == pytest.approx(4 * per_step)
    assert not store.is_over(spec)


def test_what_a_checkpoint_holds_is_not_to_do_any_more(store):
    spec = training()
    record(store, training(seed=7), 3600.0, steps=4)
    folder = store.folder(spec)
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"fraction": 0.75}))
    assert fraction_done(folder) == 0.0  # news alone: a restart would begin anew
    (folder / "checkpoint-000000003-0.pt").touch()
    assert fraction_done(folder) == 0.75
    assert "time: 0.25 CPU core-hours for 1 run," in "\n".join(plan([spec], store, [store], "cpu"))


def test_it_counts_what_is_to_do_and_names_what_is_not_known(store):
    done, other = training(), training(model="resnet18")
    record(store, done, 4.0, steps=4)
    text = "\n".join(plan([done, other, EvalSpec(train=other)], store, [store], "cpu"))
    assert "trainings: 1 to do, 1 of 2 over" in text
    assert "evaluations: 1 to do, 0 of 1 over" in text
    assert "not known for 2 runs" in text and "--measure" in text
    assert "data: Digits, comes with a dependency" in text


def test_it_says_what_the_curves_cost(store):
    """Test images over three times the training images, in one of two epochs; the last epoch has a point."""
    every, seldom = training(curve_every=1), training(curve_every=9)
    assert every.curve_share == pytest.approx(797 / 3000)
    assert seldom.curve_share == pytest.approx(797 / 6000)
    assert training("ivon", draws=2, curve_every=1).curve_share == pytest.approx(797 / 6000)
    assert training(curve_every=1, holdout=0.2).curve_share == pytest.approx(200 / 2400)
    lines = list(plan([every, seldom, EvalSpec(train=every)], store, [store], "cpu"))
    assert "curves: their looks at the test images add at most 19.9% to these trainings" in lines
    record(store, every, 4.0, steps=4)
    record(store, seldom, 4.0, steps=4)
    assert "curves:" not in "\n".join(plan([every, seldom], store, [store], "cpu"))


@pytest.mark.parametrize("name", METHODS)
def test_disk_space_is_that_of_the_checkpoints(name):
    spec = training(name, width=16, batch_size=10)
    run = ImageTraining(spec, single(torch.device("cpu")))
    run.take_step(*next(run.batches()))
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    expected = checkpoint_bytes(spec, spec.parameters) / checkpoint.KEPT
    assert file.tell() < 1.25 * expected  # names, shapes and counters of a hundred small tensors add some
    if name != "swag":  # its deviations come with the epochs
        assert file.tell() > 0.95 * expected
