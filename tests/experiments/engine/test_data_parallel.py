"""Several processes that share one training, over gloo on CPUs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from baselines import METHODS
from experiments.engine.distributed import Group
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.engine.watch import Watch
from experiments.errors import RunError


def stop_after_looks(count: int) -> Callable[[], bool]:
    left = iter(range(count - 1))
    return lambda: next(left, None) is None


def history(store: Store, spec) -> list[float]:
    return [value for point in store.done(spec)["result"]["history"] for value in point.values()]


@pytest.mark.parametrize("method", ["sgd", "adamw", "ivon"])
def test_two_processes_give_the_result_of_one(method, tiny, cpu, together, tmp_path):
    """Also IVON without `sync`, whose draws are then alike on all processes."""
    spec = tiny(method, lr=0.01)
    alone, shared = Store(tmp_path / "alone"), Store(tmp_path / "shared")
    assert execute(spec, alone, cpu, Watch()).end == "done"
    together(2, lambda group: execute(spec, shared, group, Watch()))
    assert shared.load(spec)["machine"]["processes"] == 2
    # Gradients are sums in another order: float32 rounding, grown over four steps at a small learning rate,
    # most by AdamW, which divides small gradients by their own size. Errors count whole images of 797,
    # of which four may change sides.
    assert history(shared, spec) == pytest.approx(history(alone, spec), rel=2e-3, abs=100 * 4 / 797)
    losses = [[p["train_nll"] for p in s.done(spec)["result"]["history"]] for s in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("method", ["sgd", "ivon"])
def test_stopped_and_resumed_by_two_equals_uninterrupted_by_two(
    method, tiny, together, tmp_path, last_state, assert_same_bits
):
    """In the second epoch, of two steps; the leading process decides for both."""
    spec = tiny(method)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    together(2, lambda group: execute(spec, whole, group, Watch()))

    def attempt(group: Group) -> None:
        ends = [
            execute(spec, cut, group, Watch(stop=stop_after_looks(3), progress_seconds=0.0)).end,
            execute(spec, cut, group, Watch()).end,
        ]
        assert not group.leads or ends == ["stopped", "done"]

    together(2, attempt)
    assert_same_bits(last_state(cut.folder(spec), spec), last_state(whole.folder(spec), spec))
    assert history(cut, spec) == history(whole, spec)


@pytest.fixture
def own_draws(tiny):
    """`own_draws(4)`: a training with IVON whose batches have so many parts, each with a draw of its own."""

    def make(shares: int, **changes) -> TrainSpec:
        method = METHODS["ivon"](lr=0.05, sync=True)
        return TrainSpec.model_validate({**dict(tiny(**changes)), "method": method, "shares": shares})

    return make


def test_draws_of_a_step_are_the_same_however_processes_divide_them(own_draws, cpu, together, tmp_path):
    """Four draws by one process or two by each of two; others would move the losses by more than rounding."""
    spec = own_draws(4)
    alone, shared, fewer = (Store(tmp_path / name) for name in ("alone", "shared", "fewer"))
    assert execute(spec, alone, cpu, Watch()).end == "done"
    together(2, lambda group: execute(spec, shared, group, Watch()))
    assert history(shared, spec) == pytest.approx(history(alone, spec), rel=1e-5)

    assert execute(own_draws(2), fewer, cpu, Watch()).end == "done"
    assert history(fewer, own_draws(2)) != pytest.approx(history(alone, spec), rel=1e-5)


def test_ivon_with_draws_of_its_own_on_every_process(
    own_draws, tiny, together, tmp_path, last_state, assert_same_bits
):
    spec = own_draws(2)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    together(2, lambda group: execute(spec, whole, group, Watch()))

    def attempt(group: Group) -> None:
        execute(spec, cut, group, Watch(stop=stop_after_looks(3), progress_seconds=0))
        execute(spec, cut, group, Watch())

    together(2, attempt)
    assert_same_bits(last_state(cut.folder(spec), spec), last_state(whole.folder(spec), spec))

    alike = Store(tmp_path / "alike")
    together(2, lambda group: execute(tiny("ivon"), alike, group, Watch()))
    assert history(alike, tiny("ivon")) != history(whole, spec)


def test_stopped_by_two_and_ended_by_one(own_draws, cpu, together, tmp_path):
    """Which draws come next is not a matter of who has made those before."""
    spec = own_draws(2)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    assert execute(spec, whole, cpu, Watch()).end == "done"
    together(
        2,
        lambda group: execute(spec, cut, group, Watch(stop=stop_after_looks(3), progress_seconds=0)),
    )
    assert not cut.is_over(spec)
    assert execute(spec, cut, cpu, Watch()).end == "done"
    assert history(cut, spec) == pytest.approx(history(whole, spec), rel=1e-5)


def test_vogn_is_not_shared_as_every_process_would_draw(tiny):
    assert tiny("vogn").not_shared_by(1) == tiny("ogn").not_shared_by(2) == ""
    assert "shares 1" in tiny("vogn").not_shared_by(2)


@pytest.mark.parametrize(("shares", "processes"), [(1, 2), (2, 4), (4, 5)])
def test_processes_that_would_change_the_number_of_draws_are_refused(own_draws, shares, processes):
    assert f"must divide shares {shares}" in own_draws(shares).not_shared_by(processes)
    assert own_draws(shares).not_shared_by(shares) == ""


def test_refused_number_of_processes_fails_in_one_line(own_draws, together, store):
    def attempt(group: Group) -> None:
        if group.leads:
            outcome = execute(own_draws(1), store, group, Watch())
            assert outcome.why == (
                "RunError: 2 processes: must divide shares 1, the parts of a batch with draws of their own"
            )
        else:
            with pytest.raises(RunError):
                execute(own_draws(1), store, group, Watch())

    together(2, attempt)


def test_curves_with_a_batch_that_processes_do_not_divide(tiny, together, store):
    """Three of them: the batches of looks, a power of two by themselves, are made to fit."""
    spec = tiny(batch_size=501)
    together(3, lambda group: execute(spec, store, group, Watch()))
    assert store.done(spec)["machine"]["processes"] == 3


def test_run_that_is_over_or_claimed_is_left_alone_by_all(tiny, together, store):
    """No process waits for another that has nothing to do."""
    spec = tiny(epochs=1)

    def twice(group: Group) -> None:
        ends = [execute(spec, store, group, Watch()).end for _ in range(2)]
        assert ends == ["done", "done"]

    together(2, twice)
    log = (store.folder(spec) / "log.jsonl").read_text()
    assert log.count('"started"') == 1

    from experiments.engine import lock

    other = tiny(epochs=1, seed=1)
    with lock.claim(store.folder(other)):
        together(2, lambda group: _expect_busy(other, store, group))
    assert not store.is_over(other)


def _expect_busy(spec, store: Store, group: Group) -> None:
    end = execute(spec, store, group, Watch()).end
    assert not group.leads or end == "busy"


def test_divergence_is_recorded_once_and_nobody_hangs(tiny, together, store):
    spec = tiny(lr=1e30, warmup_epochs=0)
    together(2, lambda group: execute(spec, store, group, Watch()))
    assert store.load(spec)["failure"]["step"] == 1


def test_damaged_checkpoint_is_set_aside_by_whoever_is_first(tiny, together, store):
    spec = tiny()
    together(2, lambda group: execute(spec, store, group, Watch(stop=lambda: True, progress_seconds=0.0)))
    (path,) = Path(store.folder(spec)).glob("checkpoint-*.pt")
    path.write_bytes(path.read_bytes()[:-1])
    together(2, lambda group: execute(spec, store, group, Watch()))
    assert store.done(spec)


def test_adahessian_is_refused(tiny, together, store):
    spec = tiny("adahessian")

    def attempt(group: Group) -> None:
        if group.leads:
            outcome = execute(spec, store, group, Watch())
            assert outcome.end == "failed"
            assert "one device only" in outcome.why
            assert "\n" not in outcome.why
        else:
            with pytest.raises(Exception, match="one device only"):
                execute(spec, store, group, Watch())

    together(2, attempt)
