"""The same specification gives the same bits, whatever this process did before."""

import numpy as np
import pytest
import torch

from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec
from experiments.engine.watch import Watch


def results(store: Store, specs) -> list[str]:
    """What the records say, without what is a matter of the machine and the moment."""
    found = []
    for spec in specs:
        result = dict(store.done(spec)["result"])
        del result["seconds"]
        found.append(repr(result))
    return found


@pytest.mark.parametrize("method", ["sgd", "ivon"])
def test_second_run_in_a_process_equals_the_first(method, tiny, cpu, tmp_path):
    """The order of runs in a worker, other runs before it and the global generators play no part."""
    train = tiny(method, epochs=1)
    looks = [train, EvalSpec(train=train), EvalSpec(train=train, draws=2)]
    other = tiny("ivon" if method != "ivon" else "sgd", seed=3, epochs=1)
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    torch.manual_seed(1)
    for spec in looks:
        assert execute(spec, first, cpu, Watch()).end == "done"
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    for spec in (other, looks[0], EvalSpec(train=other, draws=1), looks[2], looks[1]):
        assert execute(spec, second, cpu, Watch()).end == "done"
    assert results(second, looks) == results(first, looks)


def test_seeds_give_other_networks(tiny, cpu, store):
    specs = [tiny(seed=seed, epochs=1) for seed in (0, 1)]
    for spec in specs:
        execute(spec, store, cpu, Watch())
    one, other = results(store, specs)
    assert one != other


def test_evaluation_seed_is_that_of_the_draws(tiny, cpu, store):
    train = tiny("ivon", epochs=1)
    specs = [
        EvalSpec(train=train, draws=1, seed=0),
        EvalSpec(train=train, draws=1, seed=1),
        EvalSpec(train=train),
    ]
    for spec in (train, *specs):
        execute(spec, store, cpu, Watch())
    assert len(set(results(store, specs))) == 3
