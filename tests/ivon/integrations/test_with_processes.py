"""DDP, FSDP and pipelines with two CPU processes, four in the slow tests, against the same in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.xdist_group("with processes")  # which all of its tests share
SCRIPT = Path(__file__).with_name("ranks.py")
ROOT = Path(__file__).parents[3]
STEPS, MICRO_BATCHES, TEST_DRAWS = 12, 2, 3
MAX_NORM = 0.3
EQUAL = {"rtol": 1e-9, "atol": 1e-11}  # float64; the ranks sum gradients in another order


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{} processes".format
)
def ranks(request, tmp_path_factory):
    """What the processes wrote down; all runs are in one group, as processes take seconds to start."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(rank):
        command = [sys.executable, SCRIPT, str(rank), str(request.param), folder]
        with (folder / f"rank{rank}.txt").open("w") as errors:
            return subprocess.Popen(command, env=env, stderr=errors)

    processes = [start(rank) for rank in range(request.param)]
    try:
        for process in processes:
            process.wait(timeout=100)
    finally:
        for process in processes:
            process.kill()
    results = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(request.param)]
    return [{**seen, "errors": (folder / f"rank{rank}.txt").read_text()} for rank, seen in enumerate(results)]


def of(ranks, run):
    """What each rank saw in a run, which must not have failed anywhere."""
    for rank, results in enumerate(ranks):
        result = results.get(run, results["errors"])  # the process has ended before
        assert not isinstance(result, str), f"rank {rank}: {result}"
    return [results[run] for results in ranks]


def posterior(optimizer):
    params = optimizer.param_groups[0]["params"]
    found = {"mean": params} | {n: [optimizer.state[p][n] for p in params] for n in ("hess", "momentum")}
    return {name: torch.cat([t.detach().reshape(-1) for t in found[name]]) for name in found}


def assert_equal_on_all_ranks_and_to(expected, results):
    for result in results:
        for name, value in expected.items():
            assert torch.equal(result[name], results[0][name]), name  # no rank drifts, not by a bit
            torch.testing.assert_close(result[name], value, **EQUAL)


def alone(task, *, clip):
    """Whole batches in one process."""
    model = task.model()
    optimizer = task.optimizer(model)
    clipping = (lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)) if clip else (lambda: None)
    task.train(model, optimizer, before_step=clipping)
    task.assert_learned(model, optimizer)
    return posterior(optimizer)


DDP = ["ddp", "ddp, gradients as views of buckets", "ddp, static graph"]
FSDP = ["fsdp", "fsdp, not resharded", "fsdp, one group", "fsdp, checkpoint"]
ORIG = [True, False]  # FSDP1's use_orig_params
FSDP1 = [f"fsdp1 {orig}{how}" for orig in ORIG for how in ("", ", SHARD_GRAD_OP", ", copies", ", checkpoint")]


@pytest.mark.parametrize("run", [*DDP, *FSDP, *FSDP1])
def test_split_batches_equal_whole_ones_in_one_process(ranks, task64, run):
    """The default: all ranks draw alike."""
    assert_equal_on_all_ranks_and_to(alone(task64, clip=True), of(ranks, run))


@pytest.mark.parametrize(
    "run", ["ddp, no_sync", "fsdp, accumulation", *(f"fsdp1 {orig}, accumulation" for orig in ORIG)]
)
def test_micro_batches_of_one_draw_reduced_once_equal_whole_batches(ranks, task64, run):
    assert_equal_on_all_ranks_and_to(alone(task64, clip=False), of(ranks, run))


MICRO = [
    "ddp, micro-batches",
    "ddp, no_sync and draws of their own",
    "fsdp, micro-batches",
    *(f"fsdp1 {orig}, micro-batches" for orig in ORIG),
]


@pytest.mark.parametrize("run", MICRO)
def test_micro_batches_with_draws_of_their_own_equal_those_in_one_process(ranks, task64, run):
    """With no_sync the gradient of the first draw has been reduced by nobody when the second begins."""
    model = task64.model()
    optimizer = task64.optimizer(model)
    task64.train(model, optimizer, draws=MICRO_BATCHES)
    assert_equal_on_all_ranks_and_to(posterior(optimizer), of(ranks, run))


CLIPPED = ["ddp, micro-batches, clipped", "ddp, no_sync, clipped", "fsdp, micro-batches, clipped"]


@pytest.mark.parametrize("run", CLIPPED)
def test_the_average_of_all_draws_and_ranks_is_clipped(ranks, task64, run):
    model = task64.model()
    optimizer = task64.optimizer(model)
    norms = []

    def clip():
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())

    task64.train(model, optimizer, draws=MICRO_BATCHES, before_step=clip)
    assert min(norms) > MAX_NORM
    assert_equal_on_all_ranks_and_to(posterior(optimizer), of(ranks, run))


def test_ranks_that_never_average_gradients_by_themselves_stay_one_posterior(ranks):
    results = of(ranks, "ddp, never synchronised, clipped")
    for name, value in results[0].items():
        assert all(torch.equal(value, result[name]) for result in results)


def test_a_draw_whose_gradients_are_not_reduced_is_refused(ranks):
    """At the end of the next its gradients would be multiplied by the noise of that."""
    assert all(result["refused"] for result in of(ranks, "fsdp, unreduced draw"))


def test_own_draw_per_rank_of_a_sharded_model_is_refused_or_one_posterior(ranks):
    """A forward pass sees the weights of all ranks: there are no draws of a rank."""
    results = of(ranks, "fsdp, own draw per rank")
    if "refused" in results[0]:
        assert all(result["refused"] for result in results)
        return
    for result in results:
        assert all(torch.equal(result[name], results[0][name]) for name in ("mean", "hess", "momentum"))
        assert result["loss"] < 0.5


EVALUATIONS = [
    "fsdp, evaluation",
    "fsdp, evaluation, resharded by hand",
    "fsdp, evaluation, given generator",
    *(f"fsdp1 {orig}, evaluation{how}" for orig in ORIG for how in ("", ", SHARD_GRAD_OP")),
]


@pytest.mark.parametrize("run", EVALUATIONS)
def test_predictions_at_test_draws_are_those_in_one_process(ranks, task64, run):
    """And they leave the training alone."""
    model = task64.model()
    optimizer = task64.optimizer(model)

    def train(steps):
        clip = nn.utils.clip_grad_norm_
        task64.train(model, optimizer, steps, before_step=lambda: clip(model.parameters(), 1.0))

    train(range(3))
    logits = []
    with torch.no_grad():
        for k in range(TEST_DRAWS):
            generator = torch.Generator().manual_seed(k) if run.endswith("given generator") else None
            with optimizer.sampled_params(generator=generator):
                logits.append(model(task64.inputs))
        logits.append(model(task64.inputs))
    train(range(3, STEPS))
    expected = {**posterior(optimizer), "logits": torch.stack(logits)}
    assert_equal_on_all_ranks_and_to(expected, of(ranks, run))


@pytest.mark.parametrize("run", ["own draw per rank", "own draw per rank, ddp"])
def test_own_draw_per_rank_gives_one_posterior(ranks, task64, run):
    """The paper's mode; test_ivon_distributed.py compares it with Algorithm 1."""
    results = of(ranks, run)
    for result in results[1:]:
        for name in ("mean", "hess", "momentum"):
            assert torch.equal(result[name], results[0][name])
        assert (result["noise"] != results[0]["noise"]).all()
    assert results[0]["loss"] < 0.5  # log(3) = 1.1 at first
    assert (results[0]["hess"] != 0.3).any()


@pytest.mark.parametrize("orig", ORIG)
def test_ranks_of_fsdp1_that_hold_nothing_take_part(ranks, task64, orig):
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = task64.optimizer([weight])
    for _ in range(STEPS):
        with optimizer.sampled_params(train=True):
            weight.square().sum().backward()
        optimizer.step()
    assert_equal_on_all_ranks_and_to({"mean": weight.detach()}, of(ranks, f"fsdp1 {orig}, one weight"))


@pytest.mark.parametrize("orig", ORIG)
def test_what_fsdp1_cannot_do_is_refused_in_words_that_name_the_remedy(ranks, orig):
    for said in of(ranks, f"fsdp1 {orig}, refusals"):
        assert "fully_shard" in said["posterior"]
        assert "sync=True is for ranks that have the whole parameters" in said["sync"]
        assert "one sampled_params(train=True) around all micro-batches" in said["no_sync"]


def test_stages_of_a_pipeline_are_the_parts_of_one_posterior(ranks, task64):
    """Two optimizers in one process with the same parts and seed, and copies of a stage that agree."""
    model = task64.model()
    optimizers = [task64.optimizer(own, part=stage) for stage, own in enumerate((model[:2], model[2:]))]
    for k in range(STEPS):
        with optimizers[0].sampled_params(train=True), optimizers[1].sampled_params(train=True):
            task64.loss(model, task64.batch(k)).backward()
        for optimizer in optimizers:
            optimizer.step()
        task64.assert_learned(model, optimizers[0]) if k == STEPS - 1 else None
    both = [posterior(optimizer) for optimizer in optimizers]
    expected = {name: torch.cat([found[name] for found in both]) for name in both[0]}
    assert_equal_on_all_ranks_and_to(expected, of(ranks, "pipeline, named"))


def test_stages_of_a_pipeline_draw_apart_without_names(ranks):
    results = of(ranks, "pipeline")
    for result in results:
        first, second = result["noise"].chunk(2)
        assert (first != second).all()
        assert all(torch.equal(result[name], results[0][name]) for name in result)


@pytest.mark.parametrize("run", ["averaged by ddp", "averaged by ddp, accumulation"])
def test_own_draws_under_ddp_without_no_sync_are_refused(ranks, run):
    """The gradient would be that of the mean of the draws, and the Hessian divided by the number of ranks."""
    for result in of(ranks, run):
        assert "sync=False" in result["said"]
        assert "no_sync()" in result["said"]


def test_zero_redundancy_optimizer_is_refused(ranks):
    assert all(result["refused"] for result in of(ranks, "zero"))
