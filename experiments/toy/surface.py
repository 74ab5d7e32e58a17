"""A loss of two weights with a sharp and a flat minimum, and the paths of a method over it.

The loss is -log of a mixture of two Gaussians of known masses, so exp(-loss) is that mixture: the exact
posterior for ess 1 without a prior. A narrow Gaussian with a small mass is higher than a wide one with a
large mass: the sharp minimum is the deeper one, and the flat minimum is where the posterior is.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from experiments.engine.spec.toy import SurfaceSpec, Well
from experiments.engine.watch import Diverged, Stopped, Watch

if TYPE_CHECKING:
    import torch

DIGITS = 3  # of the paths in a record


def log_density(x: Any, y: Any, well: Well) -> Any:
    """log(mass N((x, y) | centre, width^2)); numbers, arrays or tensors."""
    distance = (x - well.centre[0]) ** 2 + (y - well.centre[1]) ** 2
    return math.log(well.mass / (2 * math.pi * well.width**2)) - distance / (2 * well.width**2)


def loss_of(x: torch.Tensor, y: torch.Tensor, wells: tuple[Well, Well]) -> torch.Tensor:
    """The surface, in nats."""
    import torch

    sharp, flat = (log_density(x, y, well) for well in wells)
    return -torch.logaddexp(sharp, flat)


def paths(spec: SurfaceSpec, watch: Watch) -> dict[str, Any]:
    """Carry out the run; returns what the record says: a path of the weights (of their mean) for each start.

    A point of a path is [step, x, y], followed by the two standard deviations if there is a posterior.
    """
    begin = time.monotonic()
    found = []
    for number, start in enumerate(spec.starts):
        found.append(_path(spec, number, start, watch))
        watch.progress({"fraction": (number + 1) / len(spec.starts)})
    return {"paths": found, "seconds": time.monotonic() - begin}


def _path(spec: SurfaceSpec, number: int, start: tuple[float, float], watch: Watch) -> list[list[float]]:
    import torch
    from torch import nn

    from baselines.draws import keyed_generator
    from baselines.method import Loss

    network = nn.ParameterDict({"weights": nn.Parameter(torch.tensor(start, dtype=torch.float64))})
    weights = network["weights"]
    # A stream of noise of its own for each start, a function of the specification alone.
    noise = keyed_generator(torch.device("cpu"), spec.seed, "surface", number)
    seed = int(torch.randint(2**31, (), generator=noise))
    method = spec.method.build(network, train_size=1, seed=seed)
    # No data: what the network "says" is the loss.
    loss = Loss(
        forward=lambda _: loss_of(weights[0], weights[1], (spec.sharp, spec.flat)),
        inputs=torch.empty(0),
        targets=torch.empty(0),
        criterion=lambda outputs, _: outputs,
    )
    path = [_point(0, network, method)]
    for step in range(1, spec.steps + 1):
        if not math.isfinite(float(method.step(loss))):
            raise Diverged(1, step)
        if watch.stop():
            raise Stopped
        if step % spec.every == 0 or step == spec.steps:
            path.append(_point(step, network, method))
    return path


def _point(step: int, network: Any, method: Any) -> list[float]:
    from ivon import IVON, Posterior

    numbers = network["weights"].tolist()
    if isinstance(method.optimizer, IVON):
        (precision,) = Posterior.of(network, method.optimizer).precision.values()
        numbers += precision.rsqrt().tolist()
    return [step, *(round(number, DIGITS) for number in numbers)]
