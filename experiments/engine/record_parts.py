"""What tables and figures take from the results of each kind of run."""

from collections.abc import Iterator
from typing import Any

from experiments.metrics import METRICS, OOD_METRICS, POOLED_ECE

QUALITY = ("top1_acc", "nll", "ece", "brier")
DIAGRAM = ("reliability.confidence", "reliability.accuracy", "reliability.count")
LOOK = (*(f"metrics.{name}" for name in METRICS), *DIAGRAM)
DRAWN = {  # by kind: what tables and figures take from a result; [] stands for every item of a list
    "train": tuple(
        f"history[].{name}" for name in ("epoch", "step", "train_nll", "train_error", "nll", "error")
    ),
    "evaluate": LOOK,
    "mixture": LOOK,
    "ood": (*(f"metrics.{name}" for name in OOD_METRICS), "entropy.inside", "entropy.outside"),
    "corrupted": (*(f"metrics.{name}" for name in (*QUALITY, POOLED_ECE.name)), "source"),
    "temperature": (*LOOK, *(f"metrics_before.{name}" for name in METRICS), "temperatures"),
    "draw_sweep": tuple(f"sweep[].{name}" for name in ("draws", *QUALITY)),
    "language": (*(f"history[].{name}" for name in ("step", "tokens", "train_nll", "nll")), "round_seconds"),
    "perplexity": ("mean_nll", "by_draws[].draws", "by_draws[].nll"),
    "cost": ("clock", "parameters", *(f"costs[].{n}" for n in ("step_seconds", "peak_bytes", "kept_bytes"))),
    "regression": ("inputs", "targets", "grid", "truth", "mean", "std"),
    "surface": ("paths",),
}
OF_METHOD = {"hmc": ("rhat", "acceptance")}  # beside them


def lacking(record: dict[str, Any]) -> str:
    """What tables and figures would look for in vain, in words that follow the record's name; else empty."""
    if record["failure"]:
        return ""
    spec = record["spec"]
    method = spec.get("method")
    wanted = DRAWN.get(spec["kind"], ())
    if isinstance(method, dict):
        wanted += OF_METHOD.get(str(method.get("name")), ())
    if "device" not in record["machine"]:
        return "lacks machine.device"
    path = next((path for path in wanted if not _has(record["result"], path)), "")
    return f"lacks result.{path}" if path else ""


def _has(value: Any, path: str) -> bool:
    """Whether a value of known types has what `path` names."""
    name, _, rest = path.partition(".")
    key = name.removesuffix("[]")
    if key not in value:
        return False
    inner: Iterator[Any] = iter(value[key] if name.endswith("[]") else [value[key]])
    return all(_has(item, rest) for item in inner) if rest else True
