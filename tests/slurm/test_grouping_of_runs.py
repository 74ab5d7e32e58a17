"""Which runs share a job: every missing run in exactly one, each training with what reads its network."""

from hypothesis import given
from hypothesis import strategies as st

from baselines.settings import SGD
from experiments.engine.artefact import with_required
from experiments.engine.spec import EvalSpec, MixtureSpec, Spec, TrainSpec
from slurm.grouping import ARRAY_LIMIT, bundles, tasks
from slurm.profile import Cluster

CPUS = Cluster(time_limit_minutes=600, runs_per_job=2, job_minutes=60)
GPUS = Cluster(time_limit_minutes=1440, gpus_per_node=4, runs_per_job=3, job_minutes=60)


def training(seed: int) -> TrainSpec:
    return TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1), seed=seed, width=2)


def grid(seeds: int) -> list[Spec]:
    trainings = [training(seed) for seed in range(seeds)]
    return [spec for t in trainings for spec in (t, EvalSpec(train=t), EvalSpec(train=t, draws=2))]


def left(specs, over=frozenset(), jobs=None, processes=1):
    return bundles(specs, over=lambda s: s.id in over, jobs=jobs or {}, processes=lambda _: processes)


def sizes(arrays) -> list[int]:
    return [len(job) for together in arrays.values() for job in together]


def hours(number: float):
    return lambda spec: 3600 * number if isinstance(spec, TrainSpec) else 0.0


@given(
    seeds=st.integers(1, 6),
    over=st.sets(st.integers(0, 17)),
    live=st.sets(st.integers(0, 17)),
    known=st.sampled_from([None, 60.0, 1800.0, 1e6]),
    cluster=st.sampled_from([CPUS, GPUS]),
    processes=st.sampled_from([1, 4, 8]),
)
def test_every_missing_run_is_in_one_job_after_what_it_needs(seeds, over, live, known, cluster, processes):
    specs = grid(seeds)
    done = {spec.id for i, spec in enumerate(specs) if i in over}
    jobs = {spec.id: f"7_{i}" for i, spec in enumerate(specs) if i in live and spec.id not in done}
    arrays = tasks(left(specs, done, jobs, processes), cluster, lambda _: known)
    placed: list[str] = []
    for needs, together in arrays.items():
        assert needs.minutes <= cluster.time_limit_minutes
        assert needs.processes <= needs.nodes * (cluster.gpus_per_node or processes)
        for job in together:
            for bundle in job:
                assert bundle.processes <= needs.processes
                seen = set(done)
                for spec in bundle.specs:
                    assert all(needed.id in seen for needed in spec.requires)
                    seen.add(spec.id)
                    if spec.id in jobs:  # a training that another job has: in reserve, once that job is over
                        assert jobs[spec.id] in needs.after
                    else:
                        placed.append(spec.id)
    assert sorted(placed) == sorted({spec.id for spec in specs} - done - set(jobs))


def test_small_runs_share_jobs_until_these_last_long_enough():
    # Two at a time for an hour: four half hours. The last two are left.
    assert sizes(tasks(left(grid(6)), CPUS, hours(0.5))) == [4, 2]


def test_runs_of_unknown_length_share_a_job_only_side_by_side():
    assert sizes(tasks(left(grid(5)), CPUS, lambda _: None)) == [2, 2, 1]


def test_a_job_asks_for_the_time_it_needs_with_a_margin():
    (needs,) = tasks(left(grid(1)), CPUS, hours(0.5))
    assert needs.minutes == 120  # 2 * 30 + 15, rounded up
    (needs,) = tasks(left(grid(1)), CPUS, hours(100))
    assert needs.minutes == CPUS.time_limit_minutes  # it continues in further jobs
    (needs,) = tasks(left(grid(1)), CPUS, lambda _: None)
    assert needs.minutes == CPUS.time_limit_minutes


def test_a_shared_training_has_a_job_and_its_nodes_for_itself():
    arrays = tasks(left(grid(2), processes=8), GPUS, hours(0.1))
    (needs,) = arrays
    assert (needs.nodes, needs.processes, needs.side_by_side) == (2, 8, 1)
    assert [len(job) for job in arrays[needs]] == [1, 1]


def test_what_waits_for_another_job_is_submitted_after_it():
    specs = grid(1)
    (bundle,) = left(specs, jobs={specs[0].id: "7_0"})
    assert bundle.specs == tuple(specs)  # the training too, should job 7_0 not end it
    assert bundle.after == {"7_0"}


def test_a_mixture_comes_after_the_jobs_of_its_members():
    members = [EvalSpec(train=training(seed)) for seed in range(2)]
    mixture = MixtureSpec(members=tuple(members))
    specs = with_required([mixture])
    assert [bundle.specs for bundle in left(specs)] == [(m.train, m) for m in members]
    jobs = {spec.id: f"7_{member.train.seed}" for member in members for spec in (member, member.train)}
    (bundle,) = left(specs, jobs=jobs)
    assert bundle.specs[-1] == mixture and bundle.after == {"7_0", "7_1"}
    (bundle,) = left(specs, over={spec.id for spec in specs[:-1]})
    assert bundle.specs == (mixture,) and not bundle.after


def test_jobs_of_equal_needs_share_an_array_that_slurm_takes():
    arrays = tasks(left(grid(300)), CPUS, lambda _: None)
    assert len(arrays) == 1
    assert ARRAY_LIMIT <= 1000  # MaxArraySize is 1001 unless a cluster has changed it
