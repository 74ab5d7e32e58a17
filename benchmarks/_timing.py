"""Time of works that take turns, so that whatever else the machine does falls on all of them."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

WARM_UP = 3  # calls before anything counts: state is created, kernels are compiled


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock (on a GPU: of its stream), and seconds of the processor in this process."""

    clock: float
    processor: float


def to_compare(spent: Iterable[Spent], device: torch.device) -> list[float]:
    """Seconds that ratios are taken from: of the clock, but of the processor where one thread does it all.

    What else runs on the machine makes the clock of one thread slow, and hardly its processor time.
    """
    one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return [one.processor if one_thread else one.clock for one in spent]


class Stopwatch(Protocol):
    """Adds up the time between each `start` and `stop`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def read(self) -> Spent: ...


class _CpuStopwatch:
    def __init__(self) -> None:
        self._clock = self._processor = 0.0

    def start(self) -> None:
        self._clock -= time.perf_counter()
        self._processor -= time.process_time()

    def stop(self) -> None:
        self._processor += time.process_time()
        self._clock += time.perf_counter()

    def read(self) -> Spent:
        return Spent(self._clock, self._processor)


class _CudaStopwatch:
    """The clock is that of events in the stream, which come when the work queued before them is done."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []
        self._processor = 0.0

    def start(self) -> None:
        self._record()
        self._processor -= time.process_time()

    def stop(self) -> None:
        self._processor += time.process_time()
        self._record()

    def read(self) -> Spent:
        torch.cuda.synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        return Spent(sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3, self._processor)

    def _record(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)


def stopwatch(device: torch.device) -> Stopwatch:
    """A stopwatch for work on this device."""
    return _CudaStopwatch() if device.type == "cuda" else _CpuStopwatch()


Work = Callable[[Stopwatch], None]  # does something once, and starts and stops the watch around what counts


def take_turns(
    works: Mapping[str, Work], device: torch.device, *, rounds: int, seconds: float
) -> dict[str, list[Spent]]:
    """Time of one call of each work, for each round; in a turn it is called for about `seconds`."""
    calls: dict[str, int] = {}
    for name, work in works.items():
        last = [_time(work, 1, device) for _ in range(WARM_UP)][-1]
        calls[name] = max(1, math.ceil(seconds / max(last.clock, 1e-9)))
    taken: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(_time(work, calls[name], device))
    return taken


def _time(work: Work, calls: int, device: torch.device) -> Spent:
    watch = stopwatch(device)
    for _ in range(calls):
        work(watch)
    spent = watch.read()
    return Spent(spent.clock / calls, spent.processor / calls)
