"""The time left, at the pace of what this launcher has done."""

from types import SimpleNamespace

import pytest

from experiments.engine import progress
from experiments.engine.progress import Bars, Lines


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Its `now` is the time."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture(params=[Lines, Bars])
def show(request, tiny, clock):
    """A display of two runs of equal effort, and the runs."""
    specs = [tiny(seed=seed) for seed in range(2)]
    shown = request.param(specs)
    yield shown, *specs
    shown.close()


def test_resumed_run_counts_what_was_done_since(show, clock):
    shown, one, _ = show
    shown.begin(one)
    clock.now += 10
    shown.news(one, {"fraction": 0.91, "seconds": 910.0})  # the first 900 s are of earlier attempts
    assert shown._work.left() == "18 min 10 s"
    assert shown._work.done() == pytest.approx(0.91 * one.effort)  # which is what bars show
    clock.now += 10
    shown.news(one, {"fraction": 0.92, "seconds": 920.0})
    assert shown._work.left() == "18 min 00 s"


@pytest.mark.parametrize("news", [{"fraction": 0.5, "seconds": 8.0}, {"fraction": 0.5}])
def test_new_run_counts_from_its_begin(news, show, clock):
    """Also if its first news come late, as those of a look with one mini-batch."""
    shown, one, _ = show
    shown.begin(one)
    clock.now += 10
    shown.news(one, news)
    assert shown._work.left() == "0 min 30 s"
    shown.end(one, "")
    assert shown._work.left() == "0 min 10 s"


@pytest.mark.parametrize("begun", [False, True])
def test_run_that_another_process_finished_is_neither_done_here_nor_left(begun, show, clock):
    shown, one, other = show
    if begun:
        shown.begin(one)
        shown.elsewhere(one)
    shown.begin(other)
    clock.now += 10
    shown.end(one, "")
    assert shown._work.left() == "?"
    shown.news(other, {"fraction": 0.25})
    assert shown._work.left() == "0 min 30 s"
    assert shown._work.done() == pytest.approx(1.25 * one.effort)
