"""A sweep over numbers of draws: each row is the average over the first draws of every mini-batch."""

import pytest
import torch

from baselines.draws import keyed_generator
from experiments.data import open_split
from experiments.engine.evaluate import predict, trained_network
from experiments.engine.evaluate_draws import METRICS, evaluate_draws, predict_by_draws
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import DrawSweepSpec, EvalSpec, parse_spec
from experiments.engine.train import train
from experiments.engine.watch import Stopped, Watch
from experiments.errors import UserError
from experiments.metrics.classification import classification_metrics

BATCH = 300  # two whole mini-batches of the 797 test images and a part


@pytest.fixture
def sweep(tiny):
    def make(draws: int, **changes) -> DrawSweepSpec:
        return DrawSweepSpec(
            look=EvalSpec(train=tiny("ivon", lr=0.2), draws=draws, batch_size=BATCH, **changes)
        )

    return make


@pytest.fixture
def trained(sweep, cpu, tmp_path):
    """The folder of the tiny network that all sweeps here look at."""
    train(sweep(1).look.train, tmp_path, cpu, Watch())
    return tmp_path


def predictions(spec, trained, cpu):
    network = trained_network(spec.look.train, trained, cpu, Watch())
    return predict_by_draws(spec, network, open_split("digits", "test", device=cpu.device), Watch())


def test_each_row_is_the_mean_softmax_of_the_first_draws(sweep, trained, cpu):
    spec = sweep(4, seed=5)
    network = trained_network(spec.look.train, trained, cpu, Watch())
    data = open_split("digits", "test", device=cpu.device)
    batches = []
    for number, (images, _) in enumerate(data.batches(BATCH)):
        noise = keyed_generator(cpu.device, 5, "mini-batch", number)
        draws = []
        for _ in range(4):
            with torch.no_grad(), network.method.optimizer.sampled_params(generator=noise):
                draws.append(network.model(images).double().softmax(dim=1))
        batches.append(torch.stack(draws))
    by_hand = torch.cat(batches, dim=1)  # (draws, images, classes)
    ours, labels = predict_by_draws(spec, network, data, Watch())
    assert list(ours) == [1, 2, 4]
    for count, probs in ours.items():
        # float32 against float64 sums of four numbers below one
        torch.testing.assert_close(probs.double(), by_hand[:count].mean(dim=0), rtol=0, atol=1e-6)
    assert torch.equal(labels, data.labels)


def test_a_longer_sweep_begins_with_the_bits_of_a_shorter_one(sweep, trained, cpu):
    short, _ = predictions(sweep(2), trained, cpu)
    long, _ = predictions(sweep(8), trained, cpu)
    assert all(torch.equal(short[count], long[count]) for count in short)
    assert not torch.equal(long[4], long[8])
    other, _ = predictions(sweep(2, seed=1), trained, cpu)
    assert not torch.equal(short[2], other[2])


def test_mini_batches_have_noise_of_their_own(sweep, trained, cpu):
    """Equal images in two mini-batches are not predicted equally by one draw."""

    class Twice:
        def __init__(self, images, labels):
            self.one = images, labels

        def __len__(self):
            return 2 * len(self.one[1])

        def batches(self, batch_size):
            yield self.one
            yield self.one

    spec = sweep(1)
    images = next(open_split("digits", "test", device=cpu.device).batches(10))
    network = trained_network(spec.look.train, trained, cpu, Watch())
    probs, _ = predict_by_draws(spec, network, Twice(*images), Watch())
    assert not torch.equal(probs[1][:10], probs[1][10:])


def test_agrees_with_a_plain_evaluation_of_as_many_draws_but_for_noise(sweep, trained, cpu):
    """Their noise differs as much as that of two seeds of the sweep."""
    ours, _ = predictions(sweep(8), trained, cpu)
    again, _ = predictions(sweep(8, seed=1), trained, cpu)
    look = sweep(8).look
    network = trained_network(look.train, trained, cpu, Watch())
    plain, _ = predict(look, network, open_split("digits", "test", device=cpu.device), Watch())
    between_seeds = (ours[8] - again[8]).square().mean().sqrt()
    assert 0.5 < (ours[8] - plain).square().mean().sqrt() / between_seeds < 2


def test_record_has_the_metrics_of_every_number_and_repeats_bit_for_bit(sweep, cpu, tmp_path):
    spec, found = sweep(4), []
    for name in ("once", "twice"):
        store = Store(tmp_path / name)
        for run in (spec.look.train, spec):
            assert execute(run, store, cpu, Watch()).end == "done"
        record = store.done(spec)
        assert record
        found.append({key: value for key, value in record["result"].items() if key != "seconds"})
    assert found[0] == found[1]
    assert [point["draws"] for point in found[0]["sweep"]] == [1, 2, 4]
    probs, labels = predictions(spec, store.folder(spec.look.train), cpu)
    for point in found[0]["sweep"]:
        metrics = classification_metrics(probs[point["draws"]], labels)
        assert {name: point[name] for name in METRICS} == {name: metrics[name] for name in METRICS}
    assert found[0]["metrics"] == {name: found[0]["sweep"][-1][name] for name in METRICS}
    assert found[0]["images"] == 797


def test_progress_ends_at_one_and_a_stop_is_heeded(sweep, trained, cpu):
    seen: list[float] = []
    watch = Watch(progress=lambda news: seen.append(news["fraction"]))
    evaluate_draws(sweep(4), trained, cpu, watch)
    assert seen == sorted(seen) and len(seen) == 3 * 3 and seen[-1] == 1.0
    asked = iter([False] * 5 + [True])  # in the second mini-batch
    with pytest.raises(Stopped):
        evaluate_draws(sweep(4), trained, cpu, Watch(stop=lambda: next(asked)))


def test_survives_json_and_refuses_other_numbers_than_powers_of_two(sweep):
    spec = sweep(8)
    data = spec.model_dump(mode="json")
    assert parse_spec(data) == spec
    for draws in (0, 3, 100):
        look = {**data["look"], "draws": draws}
        with pytest.raises(UserError, match=rf"look\.draws {draws} is not a power of two"):
            parse_spec({**data, "look": look})
