"""An interrupted training ends with the same bits as an uninterrupted one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from baselines import METHODS
from experiments.engine import checkpoint
from experiments.engine.evaluate import evaluate
from experiments.engine.spec import EvalSpec
from experiments.engine.train import train
from experiments.engine.watch import Diverged, Stopped, Watch

STEPS = 4  # of a tiny run


def stop_after(steps: int) -> Watch:
    """Asks for a stop after so many steps of this attempt; looks at every step."""
    left = iter(range(steps - 1))
    return Watch(stop=lambda: next(left, None) is None, progress_seconds=0.0)


def train_in_pieces(spec, folder: Path, cpu, pieces: tuple[int, ...]) -> dict:
    for steps in pieces:
        with pytest.raises(Stopped):
            train(spec, folder, cpu, stop_after(steps))
    return train(spec, folder, cpu, Watch())


@pytest.fixture
def folders(tmp_path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_equals_uninterrupted(method, tiny, cpu, folders, last_state, assert_same_bits):
    """Stopped in the middle of an epoch, at the last step of one, and at the very last step."""
    spec = tiny(method)
    whole, cut = folders("whole"), folders("cut")
    one = train(spec, whole, cpu, Watch())
    other = train_in_pieces(spec, cut, cpu, (1, 1, 1, 1))
    assert one["steps"] == STEPS
    assert_same_bits(last_state(cut, spec), last_state(whole, spec))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert [point["epoch"] for point in one["history"]] == [1, 2]
    assert all(math.isfinite(value) for point in one["history"] for value in point.values())

    look = EvalSpec(train=spec, draws=2)
    results = [evaluate(look, folder, cpu, Watch()) for folder in (whole, cut)]
    for result in results:
        del result["seconds"]
    assert repr(results[0]) == repr(results[1])  # also where a metric is NaN


def test_checkpoint_after_the_last_step_is_older_than_the_final_one(tiny, cpu, folders):
    """Both belong to the same number of steps; the trained network is the one that evaluations find."""
    spec, folder = tiny(), folders("run")
    train_in_pieces(spec, folder, cpu, (STEPS,))
    steps = [path.name.split("-")[1] for path in folder.glob("checkpoint-*.pt")]
    assert len(set(steps)) == len(steps) == 2
    assert checkpoint.load(folder, spec.id, warn=pytest.fail)["epoch"] == spec.epochs


def test_checkpoints_on_the_way_change_nothing(tiny, cpu, folders, last_state, assert_same_bits):
    spec, plain, busy = tiny("ivon"), folders("plain"), folders("busy")
    train(spec, plain, cpu, Watch())
    news = []
    train(spec, busy, cpu, Watch(progress=news.append, progress_seconds=0.0, checkpoint_seconds=1e-9))
    assert len(news) == STEPS
    assert [round(n["fraction"] * STEPS) for n in news] == list(range(1, STEPS + 1))
    assert_same_bits(last_state(busy, spec), last_state(plain, spec))


def test_damaged_last_checkpoint_costs_steps_but_not_bits(tiny, cpu, folders, last_state, assert_same_bits):
    spec, whole, cut = tiny("ivon"), folders("whole"), folders("cut")
    train(spec, whole, cpu, Watch())
    for steps in (1, 2):
        with pytest.raises(Stopped):
            train(spec, cut, cpu, stop_after(steps))
    path = max(cut.glob("checkpoint-*.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    lines = []
    train(spec, cut, cpu, Watch(warn=lines.append))
    assert len(lines) == 1
    assert_same_bits(last_state(cut, spec), last_state(whole, spec))


def test_finished_training_is_not_repeated(tiny, cpu, folders, last_state, assert_same_bits):
    """Killed after the last checkpoint, before the record: the next attempt only writes the record."""
    spec, folder = tiny(), folders("run")
    first = train(spec, folder, cpu, Watch())
    before = last_state(folder, spec)
    news = []
    again = train(spec, folder, cpu, Watch(progress=news.append, progress_seconds=0.0))
    assert not news
    assert again["history"] == first["history"]
    assert_same_bits(last_state(folder, spec), before)


def test_seconds_are_those_of_all_attempts(tiny, cpu, folders):
    spec, folder = tiny(), folders("run")
    with pytest.raises(Stopped):
        train(spec, folder, cpu, stop_after(3))
    before = checkpoint.load(folder, spec.id, warn=pytest.fail)["seconds"]
    assert before > 0
    assert train(spec, folder, cpu, Watch())["seconds"] > before


@pytest.mark.parametrize("looks", [0.0, 1e9], ids=["noticed at once", "noticed at the end of the epoch"])
def test_divergence_is_dated_alike_whenever_it_is_noticed(looks, tiny, cpu, folders):
    spec = tiny(lr=1e30, warmup_epochs=0)
    with pytest.raises(Diverged, match="loss is not finite in epoch 0, step ") as caught:
        train(spec, folders("run"), cpu, Watch(progress_seconds=looks))
    assert caught.value.epoch == 0
    assert caught.value.step == 1  # the first loss is that of the initial weights


def test_divergence_in_the_very_last_step_is_noticed(tiny, cpu, folders):
    """No training loss tells of it, but the curve's point does: a broken network has no record."""
    spec = tiny(lr=1e30, warmup_epochs=0, epochs=1, batch_size=1000)
    with pytest.raises(Diverged) as caught:
        train(spec, folders("run"), cpu, Watch())
    assert (caught.value.epoch, caught.value.step) == (0, 1)


def test_a_kill_costs_an_epoch_at_most(tiny, cpu, tmp_path, monkeypatch):
    """Long before a checkpoint is due by time."""
    monkeypatch.setattr("experiments.engine.train.ROUND_CHECKPOINT_SECONDS", 0.0)
    epochs = []

    def look(_news) -> None:
        saved = checkpoint.load(tmp_path, spec.id, warn=print)
        epochs.append(saved["epoch"] if saved else 0)

    spec = tiny(epochs=3)
    train(spec, tmp_path, cpu, Watch(progress=look, progress_seconds=0.0, checkpoint_seconds=3600.0))
    assert epochs == [0, 0, 1, 1, 2, 2]  # two steps an epoch
