"""What makes a run the same run, and what a mistake in a specification says."""

import json

import pytest
from pydantic import ValidationError

from baselines import METHODS
from baselines.settings import IVON, SGD, AdamW
from experiments.artefacts import ARTEFACTS
from experiments.engine.assignments import changed
from experiments.engine.spec import EvalSpec, TrainSpec, nearest, parse_spec
from experiments.errors import UserError

BASE = {"dataset": "digits", "model": "resnet20", "method": SGD(lr=0.1)}


# Records are found by these ids. A change of them, or of what a run computes, needs a new `protocol`:
# otherwise the records there are get lost, or pass for those of another run.
def test_ids_of_the_papers_table1_are_those_of_earlier_versions():
    training, evaluation = [s for s in ARTEFACTS["table1"].specs("paper") if "cifar100" in s.label][:2]
    assert (training.id, evaluation.id) == ("975bc63509ea1f6c", "b1e9818da4589523")


def test_ids_of_a_demo_run_are_those_of_earlier_versions():
    """Written out, since the demo's numbers of epochs and learning rates may be chosen anew."""
    method = AdamW(lr=0.002, weight_decay=2e-4)
    demo = {"width": 8, "method": method, "epochs": 30, "warmup_epochs": 1, "curve_every": 1}
    training = TrainSpec(dataset="digits", model="resnet20", **demo)
    assert (training.id, EvalSpec(train=training).id) == ("42b25e0fdf47af2a", "a09ceeb9870628e0")


def test_id_is_the_same_for_equal_specifications():
    assert TrainSpec(**BASE).id == TrainSpec(**dict(reversed(BASE.items()))).id
    assert len(TrainSpec(**BASE).id) == 16


@pytest.mark.parametrize("deep", [False, True])
def test_an_id_that_was_asked_for_is_no_part_of_the_specification(deep):
    spec = EvalSpec(train=TrainSpec(**BASE))
    asked = (spec.train.id, spec.id)
    assert spec == EvalSpec(train=TrainSpec(**BASE)) and hash(spec) == hash(EvalSpec(train=TrainSpec(**BASE)))
    assert parse_spec(spec.model_dump(mode="json")) == spec
    train = spec.train.model_copy(update={"seed": 1}, deep=deep)
    other = spec.model_copy(update={"train": train}, deep=deep)
    assert train.id == TrainSpec(**BASE, seed=1).id != asked[0]
    assert other.id == EvalSpec(train=TrainSpec(**BASE, seed=1)).id != asked[1]
    assert (spec.train.id, spec.id) == asked


OTHER_VALUES = {
    "dataset": "cifar10",
    "holdout": 0.1,
    "model": "resnet18",
    "width": 4,
    "method": SGD(lr=0.2),
    "epochs": 3,
    "warmup_epochs": 2,
    "cosine_epochs": 7,
    "batch_size": 10,
    "precision": "bf16",
    "shares": 2,
    "curve_every": 3,
    "seed": 1,
}


def test_every_field_is_tried_below():
    assert set(OTHER_VALUES) == set(TrainSpec.model_fields) - {"kind", "protocol"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_another_value_of_any_field_is_another_run(field):
    base = {**BASE, "method": IVON(lr=0.1, sync=True)} if field == "shares" else BASE
    assert TrainSpec(**{**base, field: OTHER_VALUES[field]}).id != TrainSpec(**base).id


@pytest.mark.parametrize("name", METHODS)
def test_another_value_of_any_method_field_is_another_run(name):
    def spec(settings) -> TrainSpec:
        return TrainSpec(**{**BASE, "method": settings})

    settings = METHODS[name](lr=0.1)
    values = settings.model_dump()
    del values["name"]
    others = {"hess_approx": "gradsq", "kl_reduction": "mean"}
    for field, value in values.items():
        other = others.get(field, not value if isinstance(value, bool) else None)
        other = {int: 7, float: 0.123, type(None): 0.123}[type(value)] if other is None else other
        assert spec(METHODS[name](**{**values, field: other})).id != spec(settings).id, field


def test_evaluations_differ_by_their_training_and_their_fields():
    train = TrainSpec(**BASE)
    ids = {
        train.id,
        EvalSpec(train=train).id,
        EvalSpec(train=train, draws=1).id,
        EvalSpec(train=train, batch_size=100).id,
        EvalSpec(train=train, seed=1).id,
        EvalSpec(train=TrainSpec(**BASE, seed=1)).id,
    }
    assert len(ids) == 6


@pytest.mark.parametrize("name", METHODS)
def test_json_round_trip(name):
    train = TrainSpec(**{**BASE, "method": METHODS[name](lr=0.1), "width": 3})
    for spec in (train, EvalSpec(train=train, draws=3)):
        again = parse_spec(json.loads(json.dumps(spec.model_dump(mode="json"))))
        assert again == spec
        assert again.id == spec.id


def test_specifications_are_frozen():
    with pytest.raises(ValidationError):
        TrainSpec(**BASE).epochs = 3


def test_steps_and_sizes_follow_from_the_data():
    spec = TrainSpec(**BASE, holdout=0.2)
    assert (spec.train_size, spec.steps_per_epoch, spec.evaluated_split) == (800, 16, "held")
    assert TrainSpec(**BASE).evaluated_split == "test"


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ({"dataset": "digitz"}, ["dataset", "digitz", "'digits'"]),
        ({"model": "resnet19"}, ["model", "resnet19", "'resnet18'"]),
        ({"method.name": "sdg"}, ["method", "'sgd'"]),
        ({"epoch": "3"}, ["--set epoch=3", "'epochs'"]),
        ({"method.momentun": "0.8"}, ["momentun", "'momentum'"]),
        ({"method.hess_init": "0.8"}, ["hess_init", "momentum"]),
        ({"epochs": "many"}, ["epochs", "many"]),
        ({"epochs": "1.5"}, ["epochs", "1.5"]),
        ({"epochs": "true"}, ["epochs", "True"]),
        ({"epochs": "null"}, ["epochs", "None"]),
        ({"epochs": "-3"}, ["epochs", "-3", "greater than or equal to 1"]),
        ({"epochs": "[1, 2]"}, ["epochs"]),
        ({"epochs": ""}, ["epochs"]),
        ({"": "3"}, ["no field ''"]),
        ({"epochs.x": "3"}, ["epochs", "no fields"]),
        ({"method": "sgd"}, ["method"]),
        ({"method.lr": "0"}, ["lr", "greater than 0"]),
        ({"method.lr": "NaN"}, ["lr"]),
        ({"method.lr": "1e999"}, ["lr"]),
        ({"batch_size": "2000"}, ["batch_size", "2000", "1000"]),
        ({"holdout": "1"}, ["holdout", "less than 1"]),
        ({"shares": "2"}, ["shares 2", "sync true"]),
        ({"shares": "7"}, ["shares 7", "batch_size 50"]),
        ({"precision": "fp8"}, ["precision", "fp8", "bf16"]),
        ({"seed": "-1"}, ["seed", "-1"]),
        ({"protocol": "0"}, ["protocol"]),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_line_that_names_them(assignments, words):
    with pytest.raises(UserError) as caught:
        changed(TrainSpec(**BASE), assignments)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert "pydantic" not in line


def test_set_changes_nested_fields_and_nothing_else():
    base = TrainSpec(**{**BASE, "method": IVON(lr=0.1)})
    new = changed(
        base, {"epochs": "3", "width": "2", "method.lr": "0.5", "method.sync": "true", "method.ess": "9"}
    )
    method = IVON(lr=0.5, sync=True, ess=9.0)
    assert new == TrainSpec(**{**BASE, "method": method, "epochs": 3, "width": 2})
    assert changed(new, {"width": "null", "method.ess": "null"}).width is None
    assert base.epochs == 200  # untouched


def test_an_integer_will_do_for_a_float():
    assert (
        changed(TrainSpec(**BASE), {"method.lr": "1"}).id == TrainSpec(**{**BASE, "method": SGD(lr=1.0)}).id
    )


def test_nearest_name_or_all_of_them():
    assert nearest("tabel1", ["table1", "fig1b"]) == "did you mean 'table1'?"
    assert nearest("xyz", ["table1", "fig1b"]) == "known: table1, fig1b"


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_runs_of_an_artefact_can_be_told_apart_by_their_labels(artefact):
    for scale in ARTEFACTS[artefact].scales:
        labels = [spec.label for spec in ARTEFACTS[artefact].specs(scale)]
        assert len(set(labels)) == len(labels), scale
