"""Two processes: one posterior, copies drawn alike by default, all apart with `sync`; parts of a model."""

import importlib.util
import os
import re
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


@pytest.mark.parametrize("run", ["own", "own size"])
def test_models_of_single_ranks_stay_apart(ranks, run):
    """Only copies share gradients, as with DistributedDataParallel's no_sync(); others share nothing."""
    for seen in ranks:
        for name in ("mean", "hess"):
            torch.testing.assert_close(seen[run][name], seen[run][f"expected {name}"], rtol=1e-10, atol=1e-10)
    noise = [seen[run]["noise"][..., :4] for seen in ranks]
    assert (noise[0] != noise[1]).all()


def test_noise_of_a_named_part_is_that_without_the_others(ranks):
    """Whoever else there is: a function of the seed and the name."""
    for rank, seen in enumerate(ranks):
        alone = load_script().own_model(rank, 4, part=f"model {rank}")
        assert all(torch.equal(seen["own, named"][name], alone[name]) for name in alone)


@pytest.mark.parametrize("start", ["apart", "that begin alike", "that begin alike, named"])
def test_curvature_between_the_weights_of_two_ranks_is_not_in_the_diagonal(ranks, start):
    """Of the Hessian with rows (1, 2) and (2, 4); with noise alike it would be 3 and 6.

    The first draw of weights that begin alike is alike, too, with a weight of 0.98^199 in the end; the ranks
    say when they draw apart.
    """
    hess = torch.stack([seen[f"weights {start}"]["hess"] for seen in ranks])
    # The update's term of second order, (1 - beta2)^2 (estimate - h)^2 / 2h, adds 3 %.
    torch.testing.assert_close(hess, torch.tensor([1.0, 4.0], dtype=hess.dtype), rtol=0.1, atol=0.1)
    assert [seen[f"weights {start}"]["warned"] for seen in ranks] == [start == "that begin alike"] * 2


def test_copies_draw_alike_beside_slices_that_draw_apart(ranks):
    """A slice that begins with the values of the other ranks is found at the second draw."""
    one, other = (seen["mixed"]["noise"] for seen in ranks)
    for copy in (1, 3):
        assert torch.equal(one[:, copy], other[:, copy])
        assert torch.equal(ranks[0]["mixed"]["mean"][copy], ranks[1]["mixed"]["mean"][copy])
    assert (one[:, 0] != other[:, 0]).all()
    assert torch.equal(one[0, 2], other[0, 2])
    assert (one[1:, 2] != other[1:, 2]).all()


REFUSED = {
    "tied": "part=",
    "synced parts": "sync=False",
    "averaged": "sync=False.*no_sync",
    "averaged, last micro-batch": "sync=False.*no_sync",
    "copies differ": "averaged",
}


@pytest.mark.parametrize("run", REFUSED)
def test_what_cannot_be_right_is_refused_on_all_ranks_in_words_that_name_the_remedy(ranks, run):
    for seen in ranks:
        assert re.search(REFUSED[run], seen[run]), seen[run]


def test_a_rank_that_draws_alone_says_for_whom_it_waits_and_need_not(ranks):
    assert re.search(r"rank 0 waits .* for rank 1.*`part`.*seed\(\)", ranks[0]["alone"])
    assert ranks[0]["alone, named"] == ""


def test_overflow_on_one_rank_skips_the_step_on_all(ranks):
    assert [seen["overflow"]["steps"].item() for seen in ranks] == [1, 1]
