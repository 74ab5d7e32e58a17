"""How long a run will take, from what runs like it have taken; every estimate says what it rests on."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from experiments import strict_json
from experiments.engine import news
from experiments.engine.record import Store
from experiments.engine.record_check import OPEN, Machine, OfKind, Positive, Steps
from experiments.engine.spec import Spec, Training, one_line, parse_spec
from experiments.errors import UserError

MEASURED = "measured.json"  # in a folder of a store's `throughput`


@with_config(OPEN)
class Measured(TypedDict):
    """A short measurement of a training; see `measure`."""

    spec: OfKind
    seconds: Positive
    steps: Steps
    machine: Machine


_MEASURED: TypeAdapter[Measured] = TypeAdapter(Measured)


@dataclass(frozen=True)
class Estimate:
    """Seconds on one device, and in words where they come from."""

    seconds: float
    basis: str


class Throughput:
    """Median seconds of the lightest unit of work (a step with one draw, a predictive pass), on one kind of
    device, by `Spec.pace`.
    """

    def __init__(self, stores: Iterable[Store], device: str) -> None:
        self._device = device  # "cpu" or "cuda"
        self._seconds: dict[Hashable, list[float]] = defaultdict(list)
        self._names: dict[Hashable, str] = {}  # of the device on which it was measured
        for store in stores:
            for record in store.all():
                if not record["failure"]:
                    self._learn(record["spec"], record["result"], record["machine"])
            for path in sorted((store.root / "throughput").glob(f"*/{MEASURED}")):
                if measured := _measurement(path):
                    self._learn(measured["spec"], measured, measured["machine"])

    def _learn(self, spec: dict[str, Any], result: dict[str, Any], machine: dict[str, Any]) -> None:
        known = "device" in machine and "processes" in machine and "seconds" in result
        if not known or machine["device"].startswith("CPU") != (self._device == "cpu"):
            return
        try:
            pace = parse_spec(spec).pace
        except UserError:  # of another version of this program
            return
        if pace is None or not pace.teaches:
            return
        units = result.get("steps", pace.units)  # a short measurement takes less of them
        for key in (pace.alike, pace.alike[:-1]):
            self._seconds[key].append(result["seconds"] * machine["processes"] / (units * pace.weight))
            self._names[key] = f"{pace.alike[-1]} on {machine['device']}"

    def seconds(self, spec: Spec) -> float | None:
        found = self.estimate(spec)
        return found and found.seconds

    def estimate(self, spec: Spec) -> Estimate | None:
        """None if nothing comparable has been measured."""
        pace = spec.pace
        if pace is None:
            return Estimate(1.0, "a second for what only reads the results of others")
        for key in (pace.alike, pace.alike[:-1]):
            if key in self._seconds:
                one, known = median(self._seconds[key]) * pace.weight, len(self._seconds[key])
                time = f"{one:.3g} s" if one >= 1 else f"{1000 * one:.3g} ms"
                words = f"{time} per {pace.unit} ({self._names[key]}, {known} measured)"
                return Estimate(one * pace.units, words)
        return None


def _measurement(path: Path) -> Any:
    """None if the file is damaged, which is said."""
    try:
        return _MEASURED.validate_python(strict_json.parse(path.read_bytes()))
    except (OSError, ValueError) as error:
        what = f"has a wrong value: {one_line(error)}" if isinstance(error, ValidationError) else error
        print(f"left out: measurement {path} {what}; remove it to measure again", file=sys.stderr)
        return None


def checkpoint_bytes(spec: Training, parameters: int) -> int:
    """What the two checkpoints that a run keeps take on disk: weights and the method's numbers, in fp32."""
    return 2 * 4 * parameters * spec.method.numbers_per_weight


def fraction_done(folder: Path) -> float:
    """How much of a run its last checkpoint holds, as far as its latest news tell."""
    if not any(folder.glob("checkpoint-*.pt")):
        return 0.0
    latest = news.read(folder)
    return latest["fraction"] if latest else 0.0
