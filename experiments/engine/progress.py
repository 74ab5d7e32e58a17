"""What a person sees while runs go on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from experiments.engine.spec import Spec

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_SECONDS = 10.0  # between two plain lines about the same run


class Display(Protocol):
    """Called by a launcher as things happen."""

    def begin(self, spec: Spec) -> None: ...
    def news(self, spec: Spec, news: dict[str, Any]) -> None: ...
    def end(self, spec: Spec, why_failed: str) -> None: ...
    def stopped(self, spec: Spec) -> None: ...
    def elsewhere(self, spec: Spec) -> None: ...
    def warn(self, line: str) -> None: ...
    def close(self) -> None: ...


def display(specs: list[Spec]) -> Display:
    """The display that suits standard error."""
    return Bars(specs) if sys.stderr.isatty() else Lines(specs)


def _describe(news: dict[str, Any]) -> str:
    """How far a run is, and what its training shows."""
    if "at" not in news:
        return f"{100 * news['fraction']:.0f} %"
    return ", ".join((news["at"], f"loss {news['loss']:.3f}", *news["shown"]))


class Work:
    """Done, total and time left over all runs.

    The time left is at the pace of what was done here: not by earlier attempts, nor by other processes.
    """

    def __init__(self, specs: list[Spec]) -> None:
        self.total = sum(spec.effort for spec in specs)
        self.count = len(specs)
        self.over: set[str] = set()
        self._fractions: dict[str, float] = {}
        self._not_here: dict[str, float] = {}  # of these fractions
        self._begun: dict[str, float] = {}  # when, of those that were begun here
        self._costs = {spec.id: spec.effort for spec in specs}
        self._start = time.monotonic()

    def begin(self, spec: Spec) -> None:
        self._begun[spec.id] = time.monotonic()

    def update(self, spec: Spec, news: dict[str, Any]) -> None:
        self._fractions[spec.id] = news["fraction"]
        if spec.id not in self._not_here:
            # What can go on has news of its seconds over all attempts.
            here = time.monotonic() - self._begun[spec.id]
            earlier = max(0.0, 1 - here / news["seconds"]) if news.get("seconds") else 0.0
            self._not_here[spec.id] = news["fraction"] * earlier

    def elsewhere(self, spec: Spec) -> None:
        self._begun.pop(spec.id, None)

    def end(self, spec: Spec) -> None:
        self.over.add(spec.id)
        self._fractions[spec.id] = 1.0
        if spec.id not in self._begun:
            self._not_here[spec.id] = 1.0

    def done(self) -> float:
        return self._sum(self._fractions)

    def _sum(self, fractions: dict[str, float]) -> float:
        return sum(self._costs[i] * fraction for i, fraction in fractions.items() if i in self._costs)

    def left(self) -> str:
        here, seconds = self.done() - self._sum(self._not_here), time.monotonic() - self._start
        if here <= 0 or seconds < 2:
            return "?"
        minutes, rest = divmod(round(seconds * (self.total - self.done()) / here), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Lines:
    """Plain lines: a run's beginning and end, and now and then how far it is."""

    def __init__(self, specs: list[Spec]) -> None:
        self._work = Work(specs)
        self._spoken: dict[str, float] = {}
        self._elsewhere: set[str] = set()

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def begin(self, spec: Spec) -> None:
        self._work.begin(spec)
        self._spoken[spec.id] = time.monotonic()

    def news(self, spec: Spec, news: dict[str, Any]) -> None:
        self._work.update(spec, news)
        if time.monotonic() - self._spoken[spec.id] >= PLAIN_SECONDS:
            self._spoken[spec.id] = time.monotonic()
            self._say(f"  {spec.label}: {_describe(news)}; all runs: {self._work.left()} left")

    def end(self, spec: Spec, why_failed: str) -> None:
        self._work.end(spec)
        state = f"FAILED: {why_failed}" if why_failed else "done"
        self._say(
            f"[{len(self._work.over)}/{self._work.count}] {spec.label}: {state}; {self._work.left()} left"
        )

    def stopped(self, spec: Spec) -> None:
        self._say(f"{spec.label}: stopped at a checkpoint")

    def elsewhere(self, spec: Spec) -> None:
        self._work.elsewhere(spec)
        if spec.id not in self._elsewhere:
            self._elsewhere.add(spec.id)
            self._say(f"{spec.label}: another process is running it; waiting for its record")

    def warn(self, line: str) -> None:
        self._say(line)

    def close(self) -> None:
        pass


class Bars:
    """A bar over all runs and one for each run under way."""

    def __init__(self, specs: list[Spec]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._work = Work(specs)
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._all = self._progress.add_task(f"{len(specs)} runs", total=self._work.total, state="")
        self._progress.start()

    def _refresh(self) -> None:
        state = f"{len(self._work.over)}/{self._work.count} done"
        self._progress.update(self._all, completed=self._work.done(), state=state)

    def begin(self, spec: Spec) -> None:
        self._work.begin(spec)
        self._tasks[spec.id] = self._progress.add_task(f"  {spec.label}", total=1.0, state="")

    def news(self, spec: Spec, news: dict[str, Any]) -> None:
        self._work.update(spec, news)
        self._progress.update(self._tasks[spec.id], completed=news["fraction"], state=_describe(news))
        self._refresh()

    def end(self, spec: Spec, why_failed: str) -> None:
        self._work.end(spec)
        self._remove(spec)
        if why_failed:
            self._progress.console.print(f"{spec.label}: FAILED: {why_failed}", markup=False)
        self._refresh()

    def stopped(self, spec: Spec) -> None:
        self._remove(spec)

    def elsewhere(self, spec: Spec) -> None:
        self._work.elsewhere(spec)
        self._remove(spec)

    def _remove(self, spec: Spec) -> None:
        if spec.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(spec.id))

    def warn(self, line: str) -> None:
        self._progress.console.print(line, markup=False)

    def close(self) -> None:
        self._progress.stop()
