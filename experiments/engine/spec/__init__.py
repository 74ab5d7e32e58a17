"""What a run is: frozen, validated data. Its `id` is a hash of its canonical JSON, and decides what is the
same run.

Device, number of processes, `--jobs` and launcher are not part of a specification and do not change its
result. `protocol` is raised by hand when code changes results.
"""

import json
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from experiments.engine.spec.base import Spec, nearest, one_line
from experiments.engine.spec.corrupted import CorruptedSpec
from experiments.engine.spec.cost import CostSpec
from experiments.engine.spec.draws import DrawSweepSpec
from experiments.engine.spec.language import LanguageSpec, PerplexitySpec
from experiments.engine.spec.looks import EvalSpec, MixtureSpec, OodSpec
from experiments.engine.spec.temperature import TemperatureSpec
from experiments.engine.spec.toy import RegressionSpec, SurfaceSpec
from experiments.engine.spec.training import MethodSettings, Training, TrainSpec
from experiments.errors import UserError

__all__ = [
    "CorruptedSpec",
    "CostSpec",
    "DrawSweepSpec",
    "EvalSpec",
    "LanguageSpec",
    "MethodSettings",
    "MixtureSpec",
    "OodSpec",
    "PerplexitySpec",
    "RegressionSpec",
    "Spec",
    "SurfaceSpec",
    "TemperatureSpec",
    "TrainSpec",
    "Training",
    "nearest",
    "one_line",
    "parse_spec",
]

KINDS = {
    "train": TrainSpec,
    "evaluate": EvalSpec,
    "mixture": MixtureSpec,
    "ood": OodSpec,
    "language": LanguageSpec,
    "perplexity": PerplexitySpec,
    "cost": CostSpec,
    "corrupted": CorruptedSpec,
    "temperature": TemperatureSpec,
    "draw_sweep": DrawSweepSpec,
    "regression": RegressionSpec,
    "surface": SurfaceSpec,
}


@cache
def _adapter() -> TypeAdapter[Spec]:
    return TypeAdapter(Annotated[reduce(or_, KINDS.values()), Field(discriminator="kind")])  # type: ignore[valid-type]


def parse_spec(data: dict[str, Any]) -> Spec:
    """The specification that `model_dump` turned into `data`; UserError in one line otherwise."""
    try:
        # JSON, because strict validation accepts from JSON what JSON cannot say more exactly.
        return _adapter().validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(one_line(error, KINDS)) from None
