"""What a record has to have, and which values its numbers can have: no damaged one is to become a table.

Kinds of runs differ in what their results hold. Of what is there, the fields that somebody reads are checked
by their names; others are let through, as later versions may add some.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from experiments.engine.spec.base import digest, one_line
from experiments.metrics import METRICS, OOD_METRICS, POOLED_ECE, Metric

FORMAT = 1
ROUNDING = 1e-9  # by which a computed number may be outside its range
UNDEFINED = {"auroc"}  # without a single error, or without a single right answer: null then
ALIKE = (("inputs", "targets"), ("grid", "truth", "mean", "std"), ("history", "round_seconds"))  # as long
OF_CLASSES = {**METRICS, POOLED_ECE.name: POOLED_ECE}
OPEN = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

AtLeast0 = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING)]
Percent = Annotated[float, Field(ge=-ROUNDING, le=100 + ROUNDING)]
Count = Annotated[int, Field(ge=0)]
Steps = Annotated[int, Field(ge=1)]


def check_metrics(metrics: dict[str, Any], known: Mapping[str, Metric] = OF_CLASSES) -> dict[str, Any]:
    """ValueError unless all are numbers within the ranges of those that are known."""
    for name, value in metrics.items():
        if value is None and name in UNDEFINED:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} {value!r:.40}: must be a number")
        metric = known.get(name)
        if metric and not metric.least - ROUNDING <= value <= metric.most + ROUNDING:
            raise ValueError(f"{name} {value:g}: must be {metric.allowed}")
    return metrics


def _equally_long(bins: dict[str, Any]) -> dict[str, Any]:
    if len({len(values) for values in bins.values() if isinstance(values, list)}) > 1:
        raise ValueError("its lists differ in length")
    return bins


Metrics = Annotated[dict[str, Any], AfterValidator(check_metrics)]


@with_config(OPEN)
class Bins(TypedDict, total=False):
    """A reliability diagram; an empty bin has neither confidence nor accuracy."""

    confidence: list[Share | None]
    accuracy: list[Share | None]
    count: list[Count]


Diagram = Annotated[Bins, AfterValidator(_equally_long)]


@with_config(OPEN)
class Point(TypedDict, total=False):
    """Of the curves of a training."""

    epoch: Count
    step: Count
    tokens: Count
    train_nll: AtLeast0
    nll: AtLeast0
    train_error: Percent
    error: Percent


@with_config(OPEN)
class Average(TypedDict, total=False):
    """Over so many draws: metrics of a classifier, or the loss of a language model."""

    draws: Count
    nll: AtLeast0


@with_config(OPEN)
class Cost(TypedDict, total=False):
    """Of one method."""

    step_seconds: Annotated[list[Positive], Field(min_length=1)]
    peak_bytes: Count
    kept_bytes: Count


@with_config(OPEN)
class Result(TypedDict, total=False):
    """Fields of the results of all kinds; a name means the same wherever it stands, but for `metrics`."""

    seconds: AtLeast0
    steps: Steps
    parameters: Annotated[int, Field(ge=1)]
    images: Count
    metrics: dict[str, Any]
    metrics_before: Metrics
    corruptions: dict[str, Metrics]
    sweep: list[Annotated[Average, AfterValidator(check_metrics)]]
    reliability: Diagram
    temperatures: list[Positive]
    source: str
    stand_in: str | None
    entropy: dict[str, list[Count]]
    history: Annotated[list[Point], Field(min_length=1)]
    round_seconds: list[AtLeast0]
    mfu: Positive | None
    mean_nll: AtLeast0
    by_draws: list[Average]
    clock: Literal["processor", "wall"]
    costs: list[Cost]
    inputs: list[float]
    targets: list[float]
    grid: list[float]
    truth: list[float]
    mean: list[float]
    std: list[AtLeast0] | None
    rhat: AtLeast0
    acceptance: Share
    paths: list[Annotated[list[Annotated[list[float], Field(min_length=3)]], Field(min_length=1)]]


@with_config(OPEN)
class Failure(TypedDict):
    """Why there are no numbers."""

    reason: str


@with_config(OPEN)
class Machine(TypedDict, total=False):
    """What the numbers were measured on."""

    device: str
    processes: Annotated[int, Field(ge=1)]


@with_config(OPEN)
class OfKind(TypedDict):
    """A specification, of whatever version of this program."""

    kind: str


@with_config(OPEN)
class Envelope(TypedDict):
    """What all records have."""

    format: Literal[1]
    id: str
    spec: OfKind
    failure: Failure | None
    result: Result
    machine: Machine


_ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)


def complaint(record: Any, stem: str) -> str:
    """What is wrong with the record in `stem`.json, in words that follow its name; empty if nothing is."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return f"is not of format {FORMAT}"
    try:
        _ENVELOPE.validate_python(record)
    except ValidationError as error:
        return f"has a wrong value: {one_line(error)}"
    result = record["result"]
    try:
        known = OOD_METRICS if record["spec"]["kind"] == "ood" else OF_CLASSES
        check_metrics(result.get("metrics", {}), known)
    except ValueError as error:
        return f"has a wrong value: result.metrics: {error}"
    for names in ALIKE:
        if len({len(result[name]) for name in names if result.get(name)}) > 1:
            return f"has lists of different lengths: {', '.join(names)}"
    if record["id"] != stem:
        return f"is of another run, {record['id']}"
    if (other := digest(record["spec"])) != stem:
        return f"has the specification of another run, {other}"
    return ""
