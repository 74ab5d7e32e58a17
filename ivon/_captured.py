# pyright: reportPrivateImportUsage=false
"""Steps in a CUDA graph: a replay repeats kernels without Python, so what changes must be on the device.

That is the noise, which comes from PyTorch's own generator of the device, and the number of steps made.
"""

import math

import torch
from torch import Tensor

from ivon import _distributed
from ivon._state import Group, States, state_dtype, trainable


def is_capturing() -> bool:
    """Whether what is done now goes into a CUDA graph, to be repeated."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class StepCounts:
    """How many steps each parameter has made, as numbers without dimensions beside its state.

    They take over from `state["step"]`, which has them again when `note` is called.
    """

    def __init__(self) -> None:
        self._counts: dict[Tensor, Tensor] = {}

    def start(self, params: list[Tensor], states: States) -> None:
        """Count for these parameters from now on; not within a graph, which would start anew each time."""
        for param in params:
            if param not in self._counts:
                count = torch.tensor(float(states[param]["step"]), dtype=state_dtype(param))
                self._counts[param] = count.to(param.device)

    def advance(self, params: list[Tensor]) -> None:
        """One more step of these parameters."""
        torch._foreach_add_([self._counts[param] for param in params], 1.0)

    def bias_corrections(self, params: list[Tensor], beta1: float) -> list[Tensor]:
        """1 - beta1^t for each parameter, without dimensions, and as exact for small t as for large."""
        corrections = torch._foreach_mul(
            [self._counts[param] for param in params], math.log(beta1) if beta1 else -math.inf
        )
        torch._foreach_expm1_(corrections)
        torch._foreach_neg_(corrections)
        return list(corrections)

    def note(self, states: States) -> None:
        """Write the numbers of steps into the states, for a checkpoint; waits for the device."""
        for param, count in self._counts.items():
            states[param]["step"] = int(count)

    def covers(self, params: list[Tensor]) -> bool:
        """Whether it counts for all of them."""
        return all(param in self._counts for param in params)


class Noise:
    """Standard normals in the flat tensor `out`, new ones at every replay; see `_shards.Noise`."""

    def __init__(self, out: Tensor) -> None:
        self._out = out
        self._made = False
        self._copy: Tensor | None = None

    def again(self) -> "Noise":
        """The same numbers, to be had once more: from a copy, as a graph cannot wind its generator back."""
        later = Noise(self._out)
        later._made = True
        later._copy = self._copy = torch.empty_like(self._out)
        return later

    def reach(self, parts: list[Tensor]) -> None:
        """Make the numbers of these parts of `out`; it makes all at once."""
        if not self._made:
            self._out.normal_()
            if self._copy is not None:
                self._copy.copy_(self._out)
        elif self._copy is not None:
            self._out.copy_(self._copy)
            self._copy = None
        self._made = True


def check(
    groups: list[Group], counts: StepCounts | None, states: States, generator: torch.Generator | None
) -> None:
    """RuntimeError unless a draw can be captured and be a new one at every replay."""
    if counts is None:
        raise RuntimeError(
            "this CUDA graph would repeat the noise of its capture: make the optimizer with capturable=True, "
            "or capture the model without the optimizer"
        )
    if generator is not None:
        raise RuntimeError(
            "a CUDA graph would repeat the draw that sampled_params(generator=...) makes: leave it out"
        )
    if _distributed.in_group():
        raise RuntimeError(
            "a CUDA graph cannot hold IVON's steps in a process group: its noise comes from the generator of "
            "each device, and ranks would not draw alike"
        )
    params = [param for group in groups for param in trainable(group)]
    if not counts.covers(params) or any("hess" not in states[param] for param in params):
        raise RuntimeError("make a step of all parameters before the capture: a CUDA graph would start anew")
