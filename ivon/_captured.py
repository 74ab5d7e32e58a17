# pyright: reportPrivateImportUsage=false
"""Steps in a CUDA graph: a replay repeats kernels without Python, so what changes must be on the device.

That is the noise, which comes from PyTorch's own generator of the device, and the number of steps made.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ivon._exchange import in_group
from ivon._state import COUNT, COUNT_WEIGHT, Group, State, has_fallen, is_counted, momentum_weight


def is_capturing() -> bool:
    """Whether what is done now goes into a CUDA graph, to be repeated."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def advance(states: list[State], beta1: float) -> None:
    """One more step of these parameters, counted on the device.

    Numbers without dimensions take over from `step` and `momentum_weight`, which have them again after
    `note_steps`. They cannot begin within a graph, which would begin anew each time. The weight follows the
    momentum's own rule, with the beta1 of each step: a graph goes on with that of its capture.
    """
    for state in states:
        if COUNT not in state:
            state[COUNT] = state["hess"].new_full((), state["step"])
            state[COUNT_WEIGHT] = state["hess"].new_full((), momentum_weight(state, beta1))
    torch._foreach_add_([state[COUNT] for state in states], 1.0)
    weights = bias_corrections(states)
    torch._foreach_mul_(weights, beta1)
    torch._foreach_add_(weights, 1 - beta1)


def bias_corrections(states: list[State]) -> list[Tensor]:
    """The weight of the momentum of each parameter, without dimensions."""
    return [state[COUNT_WEIGHT] for state in states]


def note_steps(states: Iterable[State]) -> None:
    """Write what was counted on the device into `step` and `momentum_weight`; waits for the device."""
    for state in states:
        if is_counted(state):
            state["step"] = int(state[COUNT])
            state["momentum_weight"] = float(state[COUNT_WEIGHT])


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
