"""Two processes: one posterior, drawn alike by default, by every rank for itself with `sync`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ivon import reference

pytestmark = pytest.mark.xdist_group("two ranks")  # they share the processes
SCRIPT = Path(__file__).with_name("two_ranks.py")
ROOT = Path(__file__).parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks wrote down."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, str(r), folder], env=env, stderr=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("run", ["alike", "price", "gradsq", "overflow"])
def test_posterior_is_the_same_on_all_ranks(ranks, run):
    for name in ("mean", "hess"):
        if name in ranks[0][run]:
            assert torch.equal(ranks[0][run][name], ranks[1][run][name])


def test_noise_is_alike_by_default_and_different_with_sync(ranks):
    assert torch.equal(ranks[0]["alike"]["noise"], ranks[1]["alike"]["noise"])
    for run in ("price", "gradsq"):
        assert (ranks[0][run]["noise"] != ranks[1][run]["noise"]).all()


@pytest.mark.parametrize("run", ["price", "gradsq"])
def test_sync_is_algorithm_1_with_the_draws_of_all_ranks(ranks, run):
    """Weighted by the sizes of the micro-batches; a gradient that a rank does not have counts as zero."""
    script = load_script()
    s = reference.Settings(lamda=20.0, beta2=0.9, estimator=run)
    start = torch.cat([torch.linspace(0, 1, n, dtype=torch.float64) for n in (4, 3)])
    state = reference.init(start, s)
    on_rank_1 = torch.tensor([1.0] * 4 + [0.0] * 3, dtype=torch.float64)
    gradients = [lambda theta: script.gradient(theta, 0), lambda theta: script.gradient(theta, 1) * on_rank_1]
    for step in range(script.STEPS):
        eps = [seen[run]["noise"][step] / reference.sigma(state, s) for seen in ranks]
        state = reference.step(state, gradients, eps, s, alpha=0.1, weights=script.WEIGHTS)
        # float64 and a few steps; the noise was read off as a difference of weights.
        torch.testing.assert_close(ranks[0][run]["mean"][step], state.m, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ranks[0][run]["hess"][step], state.h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("run", "sizes"), [("own", (4, 4)), ("own size", (4, 5))])
def test_models_of_single_ranks_stay_apart(ranks, run, sizes):
    """Only ranks with the same means share gradients, as with DistributedDataParallel's no_sync()."""
    for rank, size in enumerate(sizes):
        alone = load_script().own_model(rank, size)
        assert all(torch.equal(ranks[rank][run][name], alone[name]) for name in alone)


def test_overflow_on_one_rank_skips_the_step_on_all(ranks):
    assert [seen["overflow"]["steps"].item() for seen in ranks] == [1, 1]
