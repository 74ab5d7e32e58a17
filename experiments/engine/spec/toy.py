"""Runs for the pictures of a tutorial: a regression with a gap, and paths over a surface of two weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from baselines import METHODS
from baselines.settings.base import Count, Positive, Settings
from experiments.engine.spec.base import Pace, Spec
from experiments.engine.spec.training import MethodSettings, Training
from experiments.errors import UserError

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class HMC(Settings):
    """Hamiltonian Monte Carlo, which draws from the exact posterior of the network and its prior."""

    name: Literal["hmc"] = "hmc"
    chains: Annotated[int, Field(ge=2)] = 4  # one chain alone cannot show that it has not arrived
    warmup: Count = 500  # proposals of each chain that find the step size and are dropped
    leapfrogs: Count = 50


class Toy(Spec):
    """What both have in common: seconds on a CPU, and no training that other runs could share."""

    experiment: ClassVar[str] = "toy"

    @property
    def trainings(self) -> tuple[Training, ...]:
        return ()

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        raise UserError(f"--set: {self.label} has no training whose fields could be changed")


class RegressionSpec(Toy):
    """What one method says of a function of one variable, seen with noise and on both sides of a gap."""

    kind: Literal["regression"] = "regression"
    protocol: Literal[1] = 1
    method: Annotated[reduce(or_, (*METHODS.values(), HMC)), Field(discriminator="name")]  # type: ignore[valid-type]
    hidden: Count = 50  # tanh units, all with standard normal priors of their weights
    examples: Count = 60
    gap: tuple[float, float] = (-0.6, 0.9)  # no inputs in here; they lie in (-2, 2)
    noise: Positive = 0.1  # standard deviation of the targets, known to the methods
    steps: Count  # with the whole data each; of HMC: the draws of a chain
    draws: Annotated[int, Field(ge=0)] = 0  # predicted functions to average over; 0: the point estimate
    data_seed: Seed = 0
    seed: Seed = 0

    @model_validator(mode="after")
    def _is_a_gap(self) -> Self:
        low, high = self.gap
        if not -2 < low < high < 2:
            raise ValueError(f"gap {self.gap}: must be two increasing numbers between -2 and 2")
        return self

    @model_validator(mode="after")
    def _hmc_has_draws(self) -> Self:
        if isinstance(self.method, HMC) and not 2 <= self.draws <= self.method.chains * self.steps:
            raise ValueError(f"draws {self.draws}: of HMC 2 at least, and at most chains * steps")
        return self

    @property
    def label(self) -> str:
        return f"{self.method.name} regression with a gap, seed {self.seed}"

    @property
    def _passes(self) -> int:
        """Passes over the data with their gradients."""
        if isinstance(self.method, HMC):
            return (self.method.warmup + self.steps) * self.method.leapfrogs
        return self.steps * getattr(self.method, "mc_samples", 1)

    @property
    def effort(self) -> float:
        return 3.0 * self._passes

    @property
    def pace(self) -> Pace:
        return Pace(units=self._passes, unit="pass of the regression", alike=("regression", self.method.name))

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.toy.regression import regress

        return regress(self, watch)


class Well(Settings):
    """One Gaussian of the mixture whose -log density is the surface: a minimum of this width."""

    centre: tuple[float, float]
    width: Positive  # standard deviation, in both directions
    mass: Positive  # its share of the posterior


class SurfaceSpec(Toy):
    """Paths of one method over a loss of two weights with a sharp and a flat minimum, from several starts."""

    kind: Literal["surface"] = "surface"
    protocol: Literal[1] = 1
    method: MethodSettings
    sharp: Well
    flat: Well
    starts: Annotated[tuple[tuple[float, float], ...], Field(min_length=1)]
    steps: Count
    every: Count = 1  # steps between two points of a path in the record
    seed: Seed = 0

    @model_validator(mode="after")
    def _deserve_their_names(self) -> Self:
        if not self.sharp.width < self.flat.width:
            raise ValueError(f"sharp.width {self.sharp.width}: must be below flat.width {self.flat.width}")
        return self

    @property
    def label(self) -> str:
        curvature = f" from hess_init {self.method.hess_init:g}" if self.method.name == "ivon" else ""
        return f"{self.method.name}{curvature} over a surface, {len(self.starts)} starts"

    @property
    def _passes(self) -> int:
        return len(self.starts) * self.steps * getattr(self.method, "mc_samples", 1)

    @property
    def effort(self) -> float:
        return 3.0 * self._passes

    @property
    def pace(self) -> Pace:
        return Pace(units=self._passes, unit="step over the surface", alike=("surface", self.method.name))

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.toy.surface import paths

        return paths(self, watch)
