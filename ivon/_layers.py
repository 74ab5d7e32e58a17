"""Gradients of single examples, layer by layer, in one ordinary backward pass.

torch.func holds the activations, their gradients and the gradients of all examples until the end. Here each
layer's are made when the backward pass reaches it, and are gone when it moves on: half the memory, and less
time. It is for networks all of whose layers are known; `accepts` tells.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules import module as modules
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ivon import _captured

AT_ONCE = 1 << 20  # gradients of a layer, over examples; more take more memory and are hardly faster

# Is given a parameter's name and gradients of it (examples, *shape), which it may change.
Keep = Callable[[str, Tensor], None]


def accepts(model: nn.Module) -> bool:
    """Whether every layer with trainable parameters is known, and none shares them or mixes examples."""
    owned = list(_layers(model).values())
    params = [p for layer in owned for p in layer.parameters(recurse=False)]
    mixes = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
    if mixes or modules._global_forward_hooks:  # such hooks come before ours, and may change outputs
        return False
    return len(params) == len({id(p) for p in params}) and all(map(_is_known, owned))


def backward(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Tensor, keep: Keep
) -> tuple[Tensor, Tensor] | None:
    """Losses (examples,) and outputs, detached; `keep` gets the gradients of all examples, part by part.

    None if a parameter was used otherwise than by a call of its layer, or examples are not what a layer has
    in its first dimension.
    """
    calls: Counter[str] = Counter()  # of each layer, of which the backward pass has not seen so many yet
    sums: dict[str, Tensor] = {}
    trial = _Trial()

    def add(name: str, grads: Tensor) -> None:
        grads = sums.pop(name) + grads if name in sums else grads
        if calls[name] > 1:
            calls[name] -= 1
            sums[name] = grads
        else:
            keep(name, grads)

    def watch(
        layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Tensor, *, own: dict[str, str]
    ) -> Tensor:
        calls.update(own.values())
        if not torch.is_grad_enabled():  # this call has no part in the gradients
            return output
        held = [_input(args, named).detach()]
        version = held[0]._version
        if not output.requires_grad:  # nothing before it has parameters; a copy may be changed in place
            leaf = output.detach().requires_grad_()
            trial.leaves.append(leaf)
            output = leaf.clone()

        @torch.no_grad()
        def pull_back(dy: Tensor) -> None:
            if trial.takes(dy):
                return
            x = held.pop()  # autograd keeps this function longer than it is needed
            if x._version != version:
                raise RuntimeError(f"the input of {layer} was changed in place before its backward pass")
            for of_layer, name in own.items():
                if calls[name] > 1 or name in sums:
                    add(name, _gradients(layer, of_layer, x, dy))
                    continue
                size = max(1, AT_ONCE // layer.get_parameter(of_layer).numel())
                for part in zip(x.split(size), dy.split(size), strict=True):
                    keep(name, _gradients(layer, of_layer, *part))

        output.register_hook(pull_back)
        return output

    def look(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = _input(args, named)
        least = 4 if isinstance(layer, nn.Conv2d) else 2  # dimensions; without examples they have one fewer
        if isinstance(x, Tensor) and (x.dim() < least or len(x) != len(inputs)):
            raise _ExamplesElsewhereError

    @torch.no_grad()
    def show(grads: Tensor, *, name: str) -> None:
        if not trial.takes(grads, may_be_zero=True):
            keep(name, grads.clone())  # autograd may still use its own

    values: dict[str, Tensor] = {}
    watched: set[str] = set()
    handles = []
    for path, layer in _layers(model).items():
        prefix = f"{path}." if path else ""
        own = {n: f"{prefix}{n}" for n, p in layer.named_parameters(recurse=False) if p.requires_grad}
        params = {name: layer.get_parameter(n).detach() for n, name in own.items()}
        handles.append(layer.register_forward_pre_hook(look, with_kwargs=True))
        if getattr(layer, "takes_parameters_of_each", False):
            params = {name: p.expand(len(inputs), *p.shape).requires_grad_() for name, p in params.items()}
            for name, p in params.items():
                p.register_hook(partial(show, name=name))
                trial.leaves.append(p)
        else:
            watched.update(own.values())
            hook = partial(watch, own=own)
            # The first of all hooks, as others may change the output.
            handles.append(layer.register_forward_hook(hook, prepend=True, with_kwargs=True))
        values |= params
    try:
        uses = _Uses({id(values[name]): name for name in watched})
        with torch.enable_grad():
            with uses:
                outputs = functional_call(model, values, (inputs.detach(),))
            if not isinstance(outputs, Tensor) or outputs.shape[:1] != inputs.shape[:1]:
                return None
            losses = vmap(loss)(outputs.unsqueeze(1), targets.unsqueeze(1))
    except _ExamplesElsewhereError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    if watched != calls.keys() or uses.count != calls or not trial.passes(model, losses):
        return None
    if losses.requires_grad:
        losses.sum().backward()
    for name, grads in sums.items():  # of layers with calls that have no part in the loss
        keep(name, grads)
    return losses.detach(), outputs.detach()


_passed: WeakSet[nn.Module] = WeakSet()  # models


class _ExamplesElsewhereError(Exception):
    """What a layer has in its first dimension are not the examples."""


class _Trial:
    """Do the layers keep examples apart? In a pass from some of them the others have no gradients then.

    A network that works on (time, examples, features) is so told from others also where there are as many
    times as examples. A model that has passed is not tried again: two more backward passes take time.
    """

    def __init__(self) -> None:
        self.leaves: list[Tensor] = []  # where the graph begins; others' leaves are to get no gradients here
        self._of: slice | None = None  # examples that the pass is from
        self._others = slice(None)
        self._apart = self._certain = True

    def passes(self, model: nn.Module, losses: Tensor) -> bool:
        """Try a model unless it has passed; the graph of the losses stays."""
        useless = len(losses) < 2 or not losses.requires_grad or not self.leaves
        if model in _passed or useless or _captured.is_capturing():
            return True
        even, odd = slice(0, None, 2), slice(1, None, 2)
        for self._of, self._others in ((even, odd), (odd, even)):
            of_these = torch.zeros_like(losses)
            of_these[self._of] = 1
            losses.backward(of_these, retain_graph=True, inputs=self.leaves)
            for leaf in self.leaves:
                leaf.grad = None
        self._of = None
        if self._apart and self._certain:
            _passed.add(model)
        return self._apart

    def takes(self, grads: Tensor, *, may_be_zero: bool = False) -> bool:
        """Whether gradients (examples, ...) are those of a trial, and not to be used."""
        if self._of is None:
            return False
        self._apart = self._apart and not grads[self._others].any()
        # Below a last layer of zeros, for example, nothing is to be seen yet.
        self._certain = self._certain and (may_be_zero or bool(grads[self._of].any()))
        return True


class _Uses(TorchFunctionMode):
    """Counts how often each parameter is an argument of a function of torch."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._names = names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count.update(self._names[id(a)] for a in (*args, *kwargs.values()) if id(a) in self._names)
        return func(*args, **kwargs)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with trainable parameters of their own, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    }


def _is_known(layer: nn.Module) -> bool:
    if getattr(layer, "takes_parameters_of_each", False):
        return True
    # Pruning and weight norm make the weight of parameters with other names; accelerate replaces forward().
    names = {name for name, _ in layer.named_parameters(recurse=False)}
    if not names <= {"weight", "bias"} or "forward" in vars(layer):
        return False
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def _input(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return next(iter((*args, *named.values())), None)


def _gradients(layer: nn.Module, own: str, x: Tensor, dy: Tensor) -> Tensor:
    """Of a layer's weight or bias, for each example: (examples, *shape)."""
    if isinstance(layer, nn.Conv2d):
        return dy.sum((2, 3)) if own == "bias" else _of_kernel(layer, x, dy)
    x, dy = (t.reshape(len(t), -1, t.shape[-1]) for t in (x, dy))  # places between example and feature
    return dy.sum(1) if own == "bias" else dy.transpose(1, 2) @ x.to(dy.dtype)


def _of_kernel(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    """The examples become groups of channels of a single image, with a kernel for each."""
    examples, shape = len(x), conv.weight.shape
    kernels = dy.new_empty(1).expand(examples * shape[0], *shape[1:])  # only the shape is read
    _, grads, _ = torch.ops.aten.convolution_backward(
        dy.reshape(1, -1, *dy.shape[2:]),
        x.reshape(1, -1, *x.shape[2:]).to(dy.dtype),
        kernels,
        None,
        conv.stride,
        conv.padding,
        conv.dilation,
        False,
        (0, 0),
        conv.groups * examples,
        (False, True, False),
    )
    return grads.view(examples, *shape)
