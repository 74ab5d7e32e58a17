"""Which runs share a job, and which jobs an array."""

from collections.abc import Callable
from dataclasses import dataclass

from experiments.engine.artefact import with_required
from experiments.engine.spec import Spec, Training
from slurm.profile import Cluster

ARRAY_LIMIT = 1000  # SLURM's own, unless a cluster has changed it
MARGIN = 2.0  # a job asks for so many times the estimated time, and for START_MINUTES more
START_MINUTES = 15
ROUND_TIMES = (
    30,
    60,
    120,
    240,
    480,
    1440,
    2880,
    5760,
)  # minutes, so that jobs of about equal length share an array

Seconds = Callable[[Spec], float | None]


@dataclass(frozen=True)
class Bundle:
    """What belongs on one node: a training and the evaluations that read its network, or these alone."""

    specs: tuple[Spec, ...]
    processes: int = 1  # GPUs (or CPU processes) that share the training
    after: frozenset[str] = frozenset()  # jobs that have some of it at the moment

    def seconds(self, of: Seconds) -> float | None:
        """Estimated time; None if it is unknown for a part."""
        known = [of(spec) for spec in self.specs]
        training = self.processes if isinstance(self.specs[0], Training) else 1
        if any(seconds is None for seconds in known):
            return None
        return sum(seconds or 0.0 for seconds in known[1:]) + (known[0] or 0.0) / training


@dataclass(frozen=True)
class Needs:
    """What a job asks SLURM for, beside what its cluster's profile says."""

    nodes: int
    processes: int  # of each training
    side_by_side: int  # runs at the same time
    minutes: int
    after: frozenset[str]


def bundles(
    specs: list[Spec],
    *,
    over: Callable[[Spec], bool],
    jobs: dict[str, str],
    processes: Callable[[Training], int],
) -> list[Bundle]:
    """What is left of `specs` and can be submitted; `jobs` tells of runs that wait or run which job has them.

    A mixture can be submitted once all its members are over or have jobs.
    """
    left: dict[tuple[str, ...], list[Spec]] = {}
    for spec in specs:
        if not over(spec) and spec.id not in jobs:
            left.setdefault(tuple(training.id for training in spec.trainings) or (spec.id,), []).append(spec)
    found = []
    for members in left.values():
        needed = [spec for spec in with_required(members) if not over(spec) and spec not in members]
        if any(spec.id not in jobs for spec in needed):
            continue
        # Other jobs have what is needed. Should they not end it, this one does.
        together = (*needed, *members)
        shared = processes(together[0]) if isinstance(together[0], Training) else 1
        found.append(Bundle(together, shared, frozenset(jobs[spec.id] for spec in needed)))
    return found


def tasks(left: list[Bundle], cluster: Cluster, seconds: Seconds) -> dict[Needs, list[list[Bundle]]]:
    """Bundles by job, and jobs by what they need: one array each."""
    found: dict[Needs, list[list[Bundle]]] = {}
    for together in _packed(left, cluster, seconds):
        found.setdefault(_needs(together, cluster, seconds), []).append(together)
    return found


def _packed(left: list[Bundle], cluster: Cluster, seconds: Seconds) -> list[list[Bundle]]:
    """A job for each large run; small ones share jobs, side by side and one after the other."""
    packed: list[list[Bundle]] = []
    open_jobs: dict[frozenset[str], list[Bundle]] = {}
    for bundle in left:
        if bundle.processes > 1:
            packed.append([bundle])
            continue
        job = open_jobs.get(bundle.after)
        if job is None or not _has_room(job, bundle, cluster, seconds):
            job = open_jobs[bundle.after] = []
            packed.append(job)
        job.append(bundle)
    return packed


def _has_room(job: list[Bundle], bundle: Bundle, cluster: Cluster, seconds: Seconds) -> bool:
    if len(job) < cluster.runs_per_job:
        return True
    known = [b.seconds(seconds) for b in (*job, bundle)]
    if any(s is None for s in known):
        return False
    return sum(s or 0.0 for s in known) <= 60 * cluster.job_minutes * cluster.runs_per_job


def _needs(job: list[Bundle], cluster: Cluster, seconds: Seconds) -> Needs:
    processes = max(bundle.processes for bundle in job)
    per_node = cluster.gpus_per_node or cluster.processes_per_node or processes
    side_by_side = min(cluster.runs_per_job, len(job)) if processes == 1 else 1
    known = [bundle.seconds(seconds) for bundle in job]
    minutes = cluster.time_limit_minutes
    if all(s is not None for s in known):
        total = max(sum(s or 0.0 for s in known) / side_by_side, *(s or 0.0 for s in known), 0.0)
        wanted = MARGIN * total / 60 + START_MINUTES
        minutes = min(minutes, next((t for t in ROUND_TIMES if t >= wanted), minutes))
    return Needs(
        nodes=-(-processes // per_node),
        processes=processes,
        side_by_side=side_by_side,
        minutes=minutes,
        after=frozenset().union(*(bundle.after for bundle in job)),
    )
