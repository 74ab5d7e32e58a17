"""Mixtures: the mean of what their members predict, from the predictions that are kept."""

import pytest
import torch

from experiments.engine import predictions
from experiments.engine.artefact import with_required
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, MixtureSpec, parse_spec
from experiments.engine.watch import Watch
from experiments.errors import RunError, UserError
from experiments.metrics.classification import classification_metrics


@pytest.fixture
def mixture(tiny) -> MixtureSpec:
    return MixtureSpec(
        members=tuple(EvalSpec(train=tiny("ivon", epochs=1, seed=seed), draws=2) for seed in range(2))
    )


def test_is_judged_by_the_mean_of_its_members(mixture, cpu, tmp_path):
    store = Store(tmp_path)
    for spec in with_required([mixture]):
        assert execute(spec, store, cpu, Watch()).end == "done"
    kept = [predictions.load(store.folder(member)) for member in mixture.members]
    assert torch.equal(kept[0][1], kept[1][1])
    assert not torch.equal(kept[0][0], kept[1][0])
    record = store.done(mixture)
    assert record
    expected = classification_metrics((kept[0][0] + kept[1][0]) / 2, kept[0][1])
    assert record["result"]["metrics"] == pytest.approx(expected, rel=1e-9)
    members = [store.load(member)["result"]["metrics"]["nll"] for member in mixture.members]
    # -log is convex: the mean of predictions is never worse than the mean of the members' losses.
    assert record["result"]["metrics"]["nll"] <= sum(members) / 2


def test_a_member_comes_before_it_and_its_training_before_that(mixture):
    specs = with_required([mixture, mixture])
    assert len(specs) == 5 and specs[-1] == mixture
    assert specs.index(mixture.members[1].train) < specs.index(mixture.members[1])


def test_survives_json(mixture):
    assert parse_spec(mixture.model_dump(mode="json")) == mixture


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_predictions_that_are_gone_are_one_line_with_a_remedy(damage, tmp_path):
    probs = torch.full((3, 2), 0.5)
    predictions.save(tmp_path, probs, torch.zeros(3, dtype=torch.int64))
    file = tmp_path / predictions.NAME
    file.unlink() if damage == "remove" else file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RunError, match=r"remove .*\.json to evaluate once more") as error:
        predictions.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (torch.full((3, 2), float("nan")), torch.zeros(3, dtype=torch.int64)),
        (torch.full((3, 2), 1.5), torch.zeros(3, dtype=torch.int64)),
        (torch.full((3, 2), 0.5), torch.full((3,), 2)),
        (torch.full((3, 2), 0.5), torch.zeros(4, dtype=torch.int64)),
        (torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_numbers_that_are_no_predictions_are_one_line_with_a_remedy(probabilities, labels, tmp_path):
    predictions.save(tmp_path, probabilities, labels)
    with pytest.raises(RunError, match=r"are damaged; remove .*\.json to evaluate once more"):
        predictions.load(tmp_path)


def test_predictions_too_many_to_keep_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MOST", 5)
    predictions.save(tmp_path, torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64))
    assert not list(tmp_path.iterdir())


def test_members_see_the_same_images(mixture):
    one = mixture.members[0]
    other = one.with_trainings(lambda train: train.model_copy(update={"holdout": 0.2}))
    data = MixtureSpec.model_construct(members=(one, other)).model_dump(mode="json")
    with pytest.raises(UserError, match="different images"):
        parse_spec({**data, "kind": "mixture"})
