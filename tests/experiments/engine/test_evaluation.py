"""Predictions are the mean softmax over the draws, and the metrics are those of the predictions."""

import pytest
import torch
import torch.nn.functional as F

from experiments.data import open_split
from experiments.engine import checkpoint
from experiments.engine.evaluate import evaluate, point_error, predict
from experiments.engine.network import build
from experiments.engine.spec import EvalSpec
from experiments.engine.train import train
from experiments.engine.watch import Stopped, Watch
from experiments.errors import RunError
from experiments.metrics.classification import classification_metrics


@pytest.fixture
def trained(tiny, cpu, tmp_path):
    """A tiny IVON network, its specification and its folder."""
    spec = tiny("ivon", lr=0.2)
    result = train(spec, tmp_path, cpu, Watch())
    network = build(spec, cpu, train_size=spec.train_size)
    network.load_state_dict(checkpoint.load(tmp_path, spec.id, warn=pytest.fail)["network"])
    return spec, network, tmp_path, result


def test_mean_of_softmax_over_draws_with_the_same_noise(trained, cpu):
    spec, network, folder, _ = trained
    look = EvalSpec(train=spec, draws=3, batch_size=300, seed=5)
    data = open_split("digits", "test", device=cpu.device)
    ours, labels = predict(look, network, data, Watch())

    noise = torch.Generator().manual_seed(5)
    by_hand = []
    for images, _ in data.batches(300):  # every mini-batch has draws of its own
        draws = []
        for _ in range(3):
            with torch.no_grad(), network.method.optimizer.sampled_params(generator=noise):
                draws.append(network.model(images).double().softmax(dim=1))
        assert not torch.equal(draws[0], draws[1])
        by_hand.append(torch.stack(draws).mean(dim=0))
    # float32 against float64 sums of three numbers below one
    torch.testing.assert_close(ours.double(), torch.cat(by_hand), rtol=0, atol=1e-6)
    assert torch.equal(labels, data.labels)

    result = evaluate(look, folder, cpu, Watch())
    assert result["images"] == len(labels) == 797
    assert repr(result["metrics"]) == repr(classification_metrics(ours, labels))
    assert sum(result["reliability"]["count"]) == 797


def test_networks_trained_in_bf16_are_evaluated_in_fp32(tiny, cpu):
    """As the released code does: the NLL of methods differs by less than bfloat16 rounds."""
    reduced, full = (
        build(tiny("sgd", precision=precision), cpu, train_size=1000) for precision in ("bf16", "fp32")
    )
    data = open_split("digits", "test", device=cpu.device)
    images, _ = next(data.batches(64))
    with torch.no_grad():
        assert torch.equal(reduced.evaluated(images), full.evaluated(images))
        assert not torch.equal(reduced.logits(images), full.logits(images))
    assert point_error(reduced, data, cpu) == point_error(full, data, cpu)


def test_zero_draws_is_the_network_at_the_mean(trained, cpu):
    spec, network, _, _ = trained
    data = open_split("digits", "test", device=cpu.device)
    ours, _ = predict(EvalSpec(train=spec, batch_size=100), network, data, Watch())
    with torch.no_grad():
        by_hand = torch.cat([network.model(images).softmax(dim=1) for images, _ in data.batches(100)])
    assert torch.equal(ours, by_hand)
    whole, _ = predict(EvalSpec(train=spec, batch_size=797), network, data, Watch())
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)  # sums in another order


def test_last_point_of_the_curve_is_the_point_estimate(trained, cpu):
    spec, network, folder, result = trained
    data = open_split("digits", "test", device=cpu.device)
    with torch.no_grad():
        logits = torch.cat([network.model(images) for images, _ in data.batches(512)]).double()
    point = point_error(network, data, cpu)
    assert point["nll"] == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-9)
    assert {name: result["history"][-1][name] for name in point} == point
    metrics = evaluate(EvalSpec(train=spec), folder, cpu, Watch())["metrics"]
    assert point["error"] == pytest.approx(100 - metrics["top1_acc"])
    assert point["nll"] == pytest.approx(metrics["nll"], rel=1e-5)  # from float32 probabilities


def test_held_out_images_are_what_a_tuning_run_is_judged_on(tiny, cpu, tmp_path):
    spec = tiny(holdout=0.2, batch_size=400, epochs=1)
    result = train(spec, tmp_path, cpu, Watch())
    assert result["train_size"] == 800
    assert evaluate(EvalSpec(train=spec), tmp_path, cpu, Watch())["images"] == 200


def test_evaluation_can_be_stopped(trained, cpu):
    spec, _, folder, _ = trained
    with pytest.raises(Stopped):
        evaluate(EvalSpec(train=spec, draws=2), folder, cpu, Watch(stop=lambda: True))


def test_network_that_is_gone_is_one_line_with_a_remedy(tiny, cpu, tmp_path):
    with pytest.raises(RunError, match=r"remove .*\.json to train it again") as caught:
        evaluate(EvalSpec(train=tiny()), tmp_path, cpu, Watch())
    assert "\n" not in str(caught.value)


def test_unfinished_network_is_not_evaluated(tiny, cpu, tmp_path):
    spec = tiny()
    with pytest.raises(Stopped):
        train(spec, tmp_path, cpu, Watch(stop=lambda: True, progress_seconds=0.0))
    with pytest.raises(RunError):
        evaluate(EvalSpec(train=spec), tmp_path, cpu, Watch())
