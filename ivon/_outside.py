"""Gradients that no training draw has computed: which may be dropped, and which must not be missed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ivon import _shards

OUTSIDE = (
    "a parameter has a gradient from outside of sampled_params(train=True): compute all gradients of a step "
    "within it, or call zero_grad() to drop them"
)


@dataclass
class Gradients:
    """What is known about the gradients that parameters have.

    Known ones have been used, or are not wanted. One that is not known is from outside of all draws, as of a
    probe at the mean, or of a framework that runs all but the last micro-batch by itself. A draw may begin
    with it, but has to zero it before its own gradient is added.
    """

    # By the parameter's id, with versions. An id of a gradient would not do, as the next one may have it.
    _known: dict[int, tuple["ref[Tensor]", int]] = field(default_factory=dict)
    # In a training draw, by the parameter's id: those that it began with, and their versions.
    _strays: dict[int, tuple["ref[Tensor]", int, RemovableHandle | None]] = field(default_factory=dict)
    _in_draw: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}, "_strays": {}}  # copies of parameters come without gradients

    def remember(self, params: Iterable[Tensor]) -> None:
        """Those that parameters have now are known from now on, and no others."""
        self._stop_watching()
        pairs = [(id(param), grad) for param in params if (grad := param.grad) is not None]
        self._known = {key: (ref(grad), grad._version) for key, grad in pairs}

    def begin(self, params: list[Tensor]) -> None:
        """A training draw begins: drop those that are known, or zero; watch the others."""
        self.end()
        self._in_draw = True
        for param in params:
            if (grad := param.grad) is None:
                continue
            if self._knows(param, grad) or not _any_nonzero(grad):
                param.grad = None
            else:
                self._watch(param, grad)

    def join(self, params: list[Tensor]) -> None:
        """New parameters: within a draw it is not known whether gradients that they have are from it."""
        for param in params if self._in_draw else []:
            if (grad := param.grad) is not None and _any_nonzero(grad):
                self._watch(param, grad)

    def is_of_draw(self, param: Tensor) -> bool:
        """Whether the parameter has a gradient that it did not have, frozen, when the draw began."""
        if (grad := param.grad) is None:
            return False
        untouched = self._is_stray(param) and self._strays[id(param)][1] == grad._version
        return param.requires_grad or not untouched

    def check(self, params: list[Tensor]) -> None:
        """RuntimeError if one of the parameters still has what the draw began with; it is at its end."""
        if self._strays and any(self._is_stray(param) for param in params):
            raise RuntimeError(OUTSIDE)
        self.end()

    def end(self) -> None:
        """The draw is over."""
        self._stop_watching()
        self._in_draw = False

    def check_unused(self, params: Iterable[Tensor], used: set[int]) -> None:
        """RuntimeError if a trainable parameter has a gradient that a step would miss.

        `used` are the ids of parameters whose gradients it does not miss.
        """
        for param in params:
            if id(param) in used or (grad := param.grad) is None or not param.requires_grad:
                continue
            if not self._knows(param, grad) and _any_nonzero(grad):
                raise RuntimeError(OUTSIDE)

    def _watch(self, param: Tensor, grad: Tensor) -> None:
        # A backward pass asks the hook before it adds its gradient; of what else adds one `check` is told.
        handle = param.register_hook(self._watcher(param)) if param.requires_grad else None
        self._strays[id(param)] = ref(grad), grad._version, handle

    def _watcher(self, param: Tensor) -> Callable[[Tensor], None]:
        of, key = ref(param), id(param)

        def look(_: Tensor) -> None:
            param = of()
            if param is not None and self._is_stray(param) and _any_nonzero(param.grad):
                raise RuntimeError(OUTSIDE)
            self._stop_watching(key)  # it has been zeroed

        return look

    def _stop_watching(self, *keys: int) -> None:
        """That of the parameters of these ids, or of all."""
        for key in keys or tuple(self._strays):
            stray = self._strays.pop(key, None)
            if stray is not None and stray[2] is not None:
                stray[2].remove()

    def _is_stray(self, param: Tensor) -> bool:
        stray = self._strays.get(id(param))
        return stray is not None and param.grad is not None and stray[0]() is param.grad

    def _knows(self, param: Tensor, grad: Tensor) -> bool:
        known = self._known.get(id(param))
        return known is not None and known[0]() is grad and known[1] == grad._version


def check_dense(grads: list[Tensor]) -> None:
    """RuntimeError if one of them is sparse."""
    for layout in set(map(attrgetter("layout"), grads)) - {torch.strided}:
        raise RuntimeError(f"IVON needs dense gradients, got {layout}; e.g. nn.Embedding(sparse=False)")


def _any_nonzero(grad: Tensor | None) -> bool:
    if grad is None:
        return False
    check_dense([grad])
    return bool(_shards.local(grad).count_nonzero())
