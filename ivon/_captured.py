# pyright: reportPrivateImportUsage=false
"""Steps in a CUDA graph: a replay repeats kernels without Python, so what changes must be on the device.

That is the noise, which comes from PyTorch's own generator of the device, and the number of steps made.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ivon._exchange import in_group
from ivon._state import COUNT, Group, State, has_fallen


def is_capturing() -> bool:
    """Whether what is done now goes into a CUDA graph, to be repeated."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def advance(states: list[State]) -> None:
    """One more step of these parameters, counted on the device.

    The count, a number without dimensions, takes over from `step`, which has it again after `note_steps`. It
    cannot begin within a graph, which would begin anew each time.
    """
    for state in states:
        if COUNT not in state:
            state[COUNT] = state["hess"].new_full((), state["step"])
    torch._foreach_add_([state[COUNT] for state in states], 1.0)


def bias_corrections(states: list[State], beta1: float) -> list[Tensor]:
    """1 - beta1^t for each parameter, without dimensions, and as exact for small t as for large."""
    exponent = math.log(beta1) if beta1 else -math.inf
    corrections = list(torch._foreach_mul([state[COUNT] for state in states], exponent))
    torch._foreach_expm1_(corrections)
    torch._foreach_neg_(corrections)
    return corrections


def note_steps(states: Iterable[State]) -> None:
    """Write the numbers of steps into `step`; waits for the device."""
    for state in states:
        if COUNT in state:
            state["step"] = int(state[COUNT])


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
    capturable: bool, groups: list[Group], states: list[State], generator: torch.Generator | None
) -> None:
    """RuntimeError unless a draw can be captured and be a new one at every replay."""
    if not capturable:
        raise RuntimeError(
            "this CUDA graph would repeat the noise of its capture: make the optimizer with capturable=True, "
            "or capture the model without the optimizer"
        )
    if generator is not None:
        raise RuntimeError(
            "a CUDA graph would repeat the draw that sampled_params(generator=...) makes: leave it out"
        )
    if in_group():
        raise RuntimeError(
            "a CUDA graph cannot hold IVON's steps in a process group: its noise comes from the generator of "
            "each device, and ranks would not draw alike"
        )
    if any(map(has_fallen, groups)):
        raise RuntimeError(
            "weight_decay was lowered: make a step outside of the CUDA graph, which would follow it each time"
        )
    if any(COUNT not in state for state in states):
        raise RuntimeError("make a step of all parameters before the capture: a CUDA graph would start anew")
