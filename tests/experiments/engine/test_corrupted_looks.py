"""Looks at corrupted images: the metrics are those of plain predictions, however the look is cut."""

import json
from itertools import count

import numpy as np
import pytest
import torch

from experiments.data import DATASETS
from experiments.data.batches import DeviceImages
from experiments.data.corruptions import corrupt
from experiments.data.root import data_root
from experiments.engine import evaluate_corrupted
from experiments.engine.artefact import with_required
from experiments.engine.evaluate import predict, trained_network
from experiments.engine.evaluate_corrupted import METRICS, calibration_error, pooled
from experiments.engine.execute import execute
from experiments.engine.record import REACHED
from experiments.engine.spec import CorruptedSpec, EvalSpec, parse_spec
from experiments.engine.watch import Watch
from experiments.errors import UserError
from experiments.metrics.classification import (
    classification_metrics,
    expected_calibration_error,
    reliability,
)

NAMES = ("fog", "gaussian_noise", "contrast")
IMAGES = 30


@pytest.fixture
def look(tiny) -> EvalSpec:
    """With two draws and room for all three corruptions in a mini-batch."""
    return EvalSpec(train=tiny("ivon", lr=0.2, epochs=1), draws=2, batch_size=100, seed=3)


@pytest.fixture
def trained(look, cpu, store) -> EvalSpec:
    """The same, its network there."""
    assert execute(look.train, store, cpu, Watch()).end == "done"
    return look


def corrupted(look: EvalSpec, **changes) -> CorruptedSpec:
    return CorruptedSpec(**{"look": look, "severity": 4, "corruptions": NAMES, "images": IMAGES, **changes})


def result_of(spec: CorruptedSpec, store, cpu, watch: Watch | None = None) -> dict:
    assert execute(spec, store, cpu, watch or Watch()).end == "done"
    return store.done(spec)["result"]


def without_seconds(result: dict) -> dict:
    return {name: value for name, value in result.items() if name != "seconds"}


@pytest.mark.parametrize("batch_size", [100, 59])
def test_metrics_are_those_of_predictions_for_images_made_by_hand(batch_size, trained, cpu, store):
    """Of 30 images each, three corruptions fit into a mini-batch of 100, one into one of 59."""
    look = trained.model_copy(update={"batch_size": batch_size})
    result = result_of(corrupted(look), store, cpu)
    network = trained_network(look.train, store.folder(look.train), cpu, Watch())
    info = DATASETS["digits"]
    clean = info.load(data_root())
    images = [corrupt(clean.test_images, name, 4)[:IMAGES] for name in NAMES]
    labels = clean.test_labels[:IMAGES]
    groups = [images] if batch_size == 100 else [[image] for image in images]
    found = []
    for group in groups:
        data = DeviceImages(
            np.concatenate(group),
            np.tile(labels, len(group)),
            device="cpu",
            mean=info.mean,
            std=info.std,
        )
        probabilities, _ = predict(look, network, data, Watch())
        found.append(probabilities)
    by_hand = torch.cat(found).split(IMAGES)
    truth = torch.from_numpy(labels)
    for name, probabilities in zip(NAMES, by_hand, strict=True):
        metrics = classification_metrics(probabilities, truth)
        assert result["corruptions"][name] == {metric: metrics[metric] for metric in METRICS}
    for metric in METRICS:
        assert result["metrics"][metric] == pytest.approx(
            np.mean([classification_metrics(probabilities, truth)[metric] for probabilities in by_hand])
        )
    everything, all_labels = torch.cat(by_hand), truth.repeat(3)
    ece = expected_calibration_error(everything.double(), all_labels)
    assert result["metrics"]["ece_pooled"] == pytest.approx(ece, abs=1e-12)
    assert result["reliability"]["count"] == reliability(everything, all_labels)["count"]
    assert (result["images"], result["source"]) == (IMAGES, "made")


def test_pooled_diagram_is_that_of_all_images_together():
    generator = torch.Generator().manual_seed(0)
    parts = [
        (
            torch.rand(40, 10, generator=generator, dtype=torch.float64).pow(sharpness),
            torch.randint(10, (40,), generator=generator),
        )
        for sharpness in (1, 8, 30)
    ]
    parts = [(weights / weights.sum(dim=1, keepdim=True), labels) for weights, labels in parts]
    probs, labels = (torch.cat(some) for some in zip(*parts, strict=True))
    bins, expected = pooled([reliability(*part) for part in parts]), reliability(probs, labels)
    assert bins["count"] == expected["count"]
    assert 0 in bins["count"] and None in bins["accuracy"]
    for name in ("confidence", "accuracy"):
        assert bins[name] == [value if value is None else pytest.approx(value) for value in expected[name]]
    assert calibration_error(bins) == pytest.approx(expected_calibration_error(probs, labels), abs=1e-12)


@pytest.mark.parametrize("calls", [1, 2, 4, 5])
def test_stopped_and_continued_equals_uninterrupted(calls, trained, cpu, store, monkeypatch):
    """Asked once before each corruption and twice, once a draw, for its only mini-batch."""
    spec = corrupted(trained.model_copy(update={"batch_size": 40}))  # one corruption at a time
    numbers = count(1)
    asked_to_stop = Watch(stop=lambda: next(numbers) >= calls)
    assert execute(spec, store, cpu, asked_to_stop).end == "stopped"
    assert not store.is_over(spec)
    made = []
    real = evaluate_corrupted.open_corrupted
    monkeypatch.setattr(
        evaluate_corrupted,
        "open_corrupted",
        lambda dataset, names, *args, **more: made.extend(names) or real(dataset, names, *args, **more),
    )
    continued = result_of(spec, store, cpu)
    assert made == list(NAMES[(calls - 1) // 3 :])  # what was done is not done again
    store.path(spec).unlink()  # to repeat the run, all of it
    made.clear()
    whole = result_of(spec, store, cpu)
    assert made == list(NAMES)
    assert repr(without_seconds(continued)) == repr(without_seconds(whole))


LEFT = {
    "of another source": lambda reached: {**reached, "source": "published"},
    "of another network": lambda reached: {**reached, "checkpoint": "other"},
    "half written": lambda reached: json.dumps(reached)[:-3],
    "seconds are a word": lambda reached: {**reached, "seconds": "2"},
    "a list": lambda reached: [reached],
    "no diagram": lambda reached: {**reached, "corruptions": {"fog": {"metrics": {}}}},
    "deep": lambda reached: "[" * 200_000,
}


@pytest.mark.parametrize("left", LEFT)
def test_what_an_attempt_left_is_not_trusted_blindly(left, trained, cpu, store):
    spec = corrupted(trained.model_copy(update={"batch_size": 40}))  # one corruption at a time
    whole = result_of(spec, store, cpu)
    store.path(spec).unlink()
    asked = iter([False] * 5)  # in the second corruption
    assert execute(spec, store, cpu, Watch(stop=lambda: next(asked, True))).end == "stopped"
    file = store.folder(spec) / REACHED
    reached = json.loads(file.read_text())
    reached["corruptions"]["fog"]["metrics"]["nll"] = 99.0
    changed = LEFT[left](reached)
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    assert without_seconds(result_of(spec, store, cpu)) == without_seconds(whole)


def test_progress_goes_over_all_corruptions(trained, cpu, store):
    said = []
    spec = corrupted(trained.model_copy(update={"batch_size": 15}))  # two mini-batches a corruption
    result_of(spec, store, cpu, Watch(progress=said.append, progress_seconds=0.0))
    assert [news["fraction"] for news in said] == pytest.approx([k / 6 for k in range(1, 7)])
    seconds = [news["seconds"] for news in said]
    assert seconds == sorted(seconds) and seconds[0] > 0
    # It is no more frequent than asked for, on the disk too.
    said.clear()
    store.path(spec).unlink()
    result_of(spec, store, cpu, Watch(progress=said.append, progress_seconds=3600.0))
    assert [news["fraction"] for news in said] == pytest.approx([1 / 6])
    assert json.loads((store.folder(spec) / "progress.json").read_text()) == said[0]


def test_it_needs_the_training_alone_and_survives_json(look):
    spec = corrupted(look)
    assert with_required([spec]) == [look.train, spec]
    assert parse_spec(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert spec.passes == 3 * IMAGES * 2
    assert spec.effort == pytest.approx(0.2 * spec.passes)
    whole = CorruptedSpec(look=look, severity=1)
    assert whole.passes == 15 * 797 * 2
    wider = whole.with_trainings(lambda train: train.model_copy(update={"width": 3}))
    assert wider.look.train.width == 3 and wider.id != whole.id


def test_plans_name_the_archive_where_there_is_one(look):
    assert [source.title for source in corrupted(look).sources] == ["Digits"]
    cifar = corrupted(look).with_trainings(lambda train: train.model_copy(update={"dataset": "cifar10"}))
    assert [source.title for source in cifar.sources] == ["CIFAR-10", "CIFAR-10-C"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"severity": 6}, "severity: 6: input should be less than or equal to 5"),
        ({"corruptions": ["fogg"]}, r"corruptions: \['fogg'\]: unknown; did you mean 'fog'\?"),
        ({"corruptions": ["fog", "snow", "fog"]}, "'fog' stands there twice"),
        ({"corruptions": []}, "corruptions"),
        ({"images": 0}, "images: 0"),
        ({"origin": "published"}, "origin 'published': there is no archive for 'digits'"),
        ({"origin": "somewhere"}, "origin: 'somewhere': input should be 'any', 'published' or 'made'"),
        ({"images": 798}, "images 798 exceeds the 797 test images; null takes all"),
    ],
)
def test_mistakes_are_one_line_that_names_them(changes, words, look):
    data = {**corrupted(look).model_dump(mode="json"), **changes}
    with pytest.raises(UserError, match=words) as caught:
        parse_spec(data)
    assert "\n" not in str(caught.value)
