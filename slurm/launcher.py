"""What the command line asks of a cluster: submit what is missing, say where runs are, cancel, find logs.

`experiments.executors` looks this module up by its name when it is needed, as rooms import one way.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from experiments.engine import log
from experiments.engine.estimate import Throughput
from experiments.engine.record import Store
from experiments.engine.spec import Spec, Training
from experiments.errors import RunError, UserError
from experiments.run import sources
from slurm import profile, queue
from slurm.grouping import Needs, bundles, tasks
from slurm.profile import Cluster
from slurm.submission import FOLDER, Place, places
from slurm.submit import submit


def check(cluster: str | None, jobs: int | None, processes: int | None) -> Cluster:
    """The profile, its number of jobs at a time replaced if one is given; UserError if it cannot serve."""
    found = profile.load(cluster)
    if jobs is not None:
        found = found.model_copy(update={"max_running": jobs})
    if processes and (uneven := _uneven(processes, found)):
        raise UserError(f"--processes {processes}: {uneven}")
    queue.require_slurm()
    return found


def run(
    specs: list[Spec], store: Store, cluster: Cluster, processes: int | None, known: list[Store]
) -> tuple[list[str], list[Spec]]:
    """Submit what is missing; what was done, in lines for the user, and what is left since SLURM takes no
    more at the moment. `known` stores tell of times.
    """
    of = _processes(cluster, processes)
    _check_shared(specs, store, cluster, of)
    _fetch_data(specs, cluster)
    throughput = Throughput(known, cluster.device)
    outcome = submit(specs, store, cluster, of, throughput.seconds)
    lines = [f"{outcome.waiting} runs were queued or running already"] if outcome.waiting else []
    lines += [
        f"submitted {array.runs} runs in {_jobs(array.jobs)} ({_describe(array.needs, cluster)}): "
        f"SLURM's number {array.job}"
        for array in outcome.arrays
    ]
    if outcome.limit:
        lines.append(
            f"{len(outcome.left)} runs are not submitted: SLURM takes no more jobs from you at the moment "
            f"({outcome.limit}); run this again once some are over"
        )
    return lines, outcome.left


def plan(
    specs: list[Spec], store: Store, cluster: Cluster, processes: int | None, known: list[Store]
) -> list[str]:
    """What `run` would submit, in lines for the user; submits nothing."""
    throughput = Throughput(known, cluster.device)
    left = bundles(specs, over=store.is_over, jobs=_live(store), processes=_processes(cluster, processes))
    lines = []
    for needs, together in tasks(left, cluster, throughput.seconds).items():
        runs = sum(len(bundle.specs) for task in together for bundle in task)
        lines.append(f"would submit {runs} runs in {_jobs(len(together))} ({_describe(needs, cluster)})")
    return lines


def _processes(cluster: Cluster, wanted: int | None) -> Callable[[Training], int]:
    def of(spec: Training) -> int:
        if wanted:
            return wanted
        return spec.devices if cluster.gpus_per_node else 1

    return of


def _check_shared(
    specs: list[Spec], store: Store, cluster: Cluster, processes: Callable[[Training], int]
) -> None:
    """Also with the numbers that nobody has typed: a training or a cluster may not fit the usual one."""
    for train in [train for spec in specs for train in spec.trainings]:
        why_not = train.not_shared_by(processes(train)) or _uneven(processes(train), cluster)
        if why_not and not store.is_over(train):
            raise UserError(f"{processes(train)} processes (--processes says otherwise): {why_not}")


def _uneven(processes: int, cluster: Cluster) -> str:
    """Why so many cannot share a training here; empty if they can. SLURM gives each node equally many."""
    most = cluster.gpus_per_node or cluster.processes_per_node or processes
    nodes = -(-processes // most)
    return f"{nodes} nodes that take {most} each cannot share them evenly" if processes % nodes else ""


def _jobs(number: int) -> str:
    return f"{number} job{'s' if number != 1 else ''}"


def _describe(needs: Needs, cluster: Cluster) -> str:
    devices = "GPUs" if cluster.gpus_per_node else "processes"
    words = [f"{needs.processes} {devices}" if needs.processes > 1 else f"{needs.side_by_side} at a time"]
    if needs.nodes > 1:
        words.append(f"{needs.nodes} nodes")
    words.append(f"at most {needs.minutes} min each, then again")
    if needs.after:
        words.append(f"after {', '.join(sorted(needs.after))}")
    return ", ".join(words)


def _fetch_data(specs: list[Spec], cluster: Cluster) -> None:
    """Nodes often have no way to the internet, so data sets are fetched before anything is submitted."""
    root = cluster.data_root
    for source in sources(specs):
        source.check(root)
        source.fetch(root)


def _live(store: Store) -> dict[str, str]:
    """The runs that wait or run, and their jobs."""
    if not (store.root / FOLDER).exists():
        return {}
    found = places(store, queue.live_elements())
    return {run: place.element.job for run, place in found.items() if place.element}


class Whereabouts:
    """What the queue and the submissions tell about runs that have no record."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = True  # whether the queue could be asked
        elements = []
        try:
            elements = queue.live_elements()
        except (UserError, RunError) as error:
            self.asked = False
            print(f"what waits or runs on a cluster is not known here: {error}", file=sys.stderr)
        self._places = places(store, elements)

    def of(self, spec: Spec) -> str | None:
        """In words; None if this run was never submitted, or what its own log says is to be believed."""
        place = self._places.get(spec.id)
        if place is None:
            return None
        if place.element is None:
            return self._gone(spec, place)
        job, state, event = place.element.job, place.element.state, self._event_since(spec, place)
        if state == "RUNNING" and event:
            return None if event == "failed" else f"running in job {job} on {place.element.node}"
        if state == "RUNNING":
            return f"next in job {job} on {place.element.node}"
        return f"waiting in job {job} ({place.element.reason if state == 'PENDING' else state.lower()})"

    def _gone(self, spec: Spec, place: Place) -> str | None:
        """SLURM has no such job any more, or cannot be asked."""
        if not self.asked:
            return None if self._event_since(spec, place) else f"submitted as {place.submission.name}"
        printed = place.submission.logs(place.index)
        if not printed:
            return (
                f"lost: its job has ended and left no log in {place.submission.folder}; "
                "do the nodes see this folder?"
            )
        if self._event_since(spec, place) == "failed":
            return None
        status = place.submission.given_up(place.index)
        if status:
            return f"failed: its job ended with exit status {status} (log: {printed[-1]})"
        return f"stopped: its job was cancelled or has died; run it again to go on (log: {printed[-1]})"

    def _event_since(self, spec: Spec, place: Place) -> str:
        """The last event of the run's log since it was submitted, if any."""
        last = log.last(self._store.folder(spec))
        return last["event"] if last and last["time"] >= place.submission.time else ""


def cancel(specs: list[Spec], store: Store) -> list[str]:
    """Cancel the jobs that have these runs and no others; the lines to show."""
    queue.require_slurm()
    wanted = {spec.id for spec in specs}
    lines, jobs = [], []
    found = places(store, queue.live_elements()).values()
    for place in {place.element.job: place for place in found if place.element}.values():
        runs = set(place.submission.tasks[place.index])
        if not runs & wanted:
            continue
        assert place.element is not None
        others = sum(run not in wanted and not any(store.root.glob(f"*/{run}.json")) for run in runs)
        if others:
            lines.append(
                f"job {place.element.job} also has {others} other runs that are not over; left alone"
            )
        else:
            jobs.append(place.element.job)
    if jobs:
        queue.cancel(jobs)
    return [*lines, f"cancelled {_jobs(len(jobs))}"]


def logs(spec: Spec, store: Store) -> list[Path]:
    """What the jobs of this run have printed, the latest submission last."""
    place = places(store, []).get(spec.id)
    return place.submission.logs(place.index) if place else []
