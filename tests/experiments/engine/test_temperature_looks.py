"""Temperature scaling of kept predictions."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from experiments.engine import predictions
from experiments.engine.artefact import with_required
from experiments.engine.execute import execute
from experiments.engine.spec import EvalSpec, TemperatureSpec, parse_spec
from experiments.engine.watch import Watch
from experiments.metrics.classification import classification_metrics


@pytest.fixture
def spec(tiny) -> TemperatureSpec:
    return TemperatureSpec(look=EvalSpec(train=tiny()))


def kept(store, spec: TemperatureSpec, sharpness: float, images: int = 1500) -> tuple[torch.Tensor, ...]:
    """Predictions in the place of the look's, `sharpness` times as sure as they should be."""
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(images, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    probabilities = (sharpness * logits).softmax(dim=1)
    folder = store.folder(spec.look)
    folder.mkdir(parents=True)
    predictions.save(folder, probabilities, labels)
    return probabilities, labels


def result_of(spec: TemperatureSpec, store, cpu) -> dict:
    assert execute(spec, store, cpu, Watch()).end == "done"
    return store.done(spec)["result"]


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_wrong_sureness_is_undone_and_accuracy_stays(sharpness, spec, store, cpu):
    probabilities, labels = kept(store, spec, sharpness)
    result = result_of(spec, store, cpu)
    before, after = result["metrics_before"], result["metrics"]
    expected = classification_metrics(probabilities, labels)
    assert before == pytest.approx(expected, abs=0)
    assert after["top1_acc"] == before["top1_acc"]
    assert after["top5_acc"] == before["top5_acc"]
    assert after["nll"] < before["nll"] - 0.05
    assert after["ece"] < before["ece"] / 2
    assert after["brier"] < before["brier"]
    assert result["temperatures"] == pytest.approx([sharpness, sharpness], rel=0.1)
    assert result["temperatures"][0] != result["temperatures"][1]
    assert result["images"] == sum(result["reliability"]["count"]) == 1500


def test_temperatures_are_those_of_another_optimiser_on_the_other_half(spec, store, cpu):
    probabilities, labels = kept(store, spec, 2.0, images=601)
    result = result_of(spec, store, cpu)
    logs = probabilities.double().log()
    order = np.random.default_rng(spec.seed).permutation(601)
    halves = [torch.from_numpy(order[:300]), torch.from_numpy(order[300:])]
    nll = 0.0
    for half, other, temperature in zip(halves, halves[::-1], result["temperatures"], strict=True):

        def loss(log_t: float, where: torch.Tensor = other) -> float:
            return torch.nn.functional.cross_entropy(logs[where] / math.exp(log_t), labels[where]).item()

        best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
        assert temperature == pytest.approx(math.exp(best.x), rel=1e-5)
        nll += len(half) * loss(math.log(temperature), half) / 601
    assert result["metrics"]["nll"] == pytest.approx(nll, rel=1e-9)


def test_no_images_own_label_has_a_say_in_its_probabilities(spec, store, cpu):
    """A changed label changes its own half's loss, and the temperature of the other half alone."""
    _, labels = kept(store, spec, 2.0)
    first = result_of(spec, store, cpu)["temperatures"]
    probabilities, _ = predictions.load(store.folder(spec.look))
    order = np.random.default_rng(spec.seed).permutation(len(labels))
    labels[order[0]] = (labels[order[0]] + 1) % 10  # of the first half
    predictions.save(store.folder(spec.look), probabilities, labels)
    store.path(spec).unlink()
    changed = result_of(spec, store, cpu)["temperatures"]
    assert changed[0] == first[0]
    assert changed[1] != first[1]


def test_other_halves_are_another_run_and_the_same_ones_the_same_bits(spec, store, cpu):
    kept(store, spec, 2.0)
    other = spec.model_copy(update={"seed": 1})
    assert other.id != spec.id
    one, two = result_of(spec, store, cpu), result_of(other, store, cpu)
    assert one["temperatures"] != two["temperatures"]
    store.path(spec).unlink()
    again = result_of(spec, store, cpu)
    assert {**again, "seconds": 0} == {**one, "seconds": 0}


def test_it_rests_on_the_looks_predictions(spec, store, cpu):
    assert with_required([spec]) == [spec.look.train, spec.look, spec]
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert spec.pace is None  # a second
    outcome = execute(spec, store, cpu, Watch())
    assert outcome.end == "failed" and "to evaluate once more" in outcome.why


def test_a_trained_network_from_end_to_end(spec, store, cpu):
    for run in with_required([spec]):
        assert execute(run, store, cpu, Watch()).end == "done"
    result = store.done(spec)["result"]
    assert result["metrics_before"] == store.done(spec.look)["result"]["metrics"]
    assert result["metrics"]["top1_acc"] == result["metrics_before"]["top1_acc"]
