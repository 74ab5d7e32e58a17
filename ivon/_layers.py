"""Gradients of single examples, layer by layer, in one ordinary backward pass.

torch.func holds the activations, their gradients and the gradients of all examples until the end. Here each
layer's are made when the backward pass reaches it, and are gone when it moves on: half the memory, and less
time. It is for networks all of whose layers are known; `accepts` tells.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

AT_ONCE = 1 << 20  # gradients of a layer, over examples; more take more memory and are hardly faster

# Is given a parameter's name and gradients of it (examples, *shape), which it may change.
Keep = Callable[[str, Tensor], None]


def accepts(model: nn.Module) -> bool:
    """Whether every layer with trainable parameters is known, and none shares them or mixes examples."""
    owned = list(_layers(model).values())
    params = [p for layer in owned for p in layer.parameters(recurse=False)]
    mixes = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
    return not mixes and len(params) == len({id(p) for p in params}) and all(map(_is_known, owned))


def backward(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Tensor, keep: Keep
) -> tuple[Tensor, Tensor] | None:
    """Losses (examples,) and outputs, detached; `keep` gets the gradients of all examples, part by part.

    None if a parameter was used otherwise than by a call of its layer.
    """
    calls: Counter[str] = Counter()  # of each layer, of which the backward pass has not seen so many yet
    sums: dict[str, Tensor] = {}

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
        held = [(args[0] if args else named["input"]).detach()]
        version = held[0]._version
        if not output.requires_grad:  # nothing before it has parameters; a copy may be changed in place
            output = output.detach().requires_grad_().clone()
        calls.update(own.values())

        @torch.no_grad()
        def pull_back(dy: Tensor) -> None:
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

    values: dict[str, Tensor] = {}
    watched: set[str] = set()
    handles = []
    for path, layer in _layers(model).items():
        prefix = f"{path}." if path else ""
        own = {n: f"{prefix}{n}" for n, p in layer.named_parameters(recurse=False) if p.requires_grad}
        params = {name: layer.get_parameter(n).detach() for n, name in own.items()}
        if getattr(layer, "takes_parameters_of_each", False):
            params = {name: p.expand(len(inputs), *p.shape).requires_grad_() for name, p in params.items()}
            for name, p in params.items():
                p.register_hook(partial(_show, keep, name))
        else:
            watched.update(own.values())
            hook = partial(watch, own=own)
            handles.append(layer.register_forward_hook(hook, with_kwargs=True))
        values |= params
    try:
        uses = _Uses({id(values[name]): name for name in watched})
        with torch.enable_grad():
            with uses:
                outputs = functional_call(model, values, (inputs,))
            losses = vmap(loss)(outputs.unsqueeze(1), targets.unsqueeze(1))
        if watched != calls.keys() or uses.count != calls:
            return None
        losses.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return losses.detach(), outputs.detach()


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
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or getattr(layer, "takes_parameters_of_each", False)


@torch.no_grad()
def _show(keep: Keep, name: str, grads: Tensor) -> None:
    keep(name, grads.clone())  # autograd may still use its own


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
