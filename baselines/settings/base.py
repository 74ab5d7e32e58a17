"""What all settings share."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # the factor of an exponential moving average
Count = Annotated[int, Field(ge=1)]

Groups = list[dict[str, Any]]  # torch's parameter groups, in place of all parameters alike


class Settings(BaseModel):
    """Frozen, complete and strict: a typo or a wrong type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Differentiates the backward pass: cannot be compiled or data-parallel.
    double_backward: ClassVar[bool] = False

    @property
    def draws_by_process(self) -> bool:
        """Whether, of several processes that share a step, each makes draws of its own."""
        return False

    # In a checkpoint, the weight itself included: what `plan` reckons disk space with.
    numbers_per_weight: ClassVar[int] = 3
