"""Filter response normalisation with a learned threshold, the only normalisation of the paper's networks.

Singh & Krishnan (2020). Written as the formula stands, its many passes over memory take longer on a CPU than
the convolutions of a ResNet-20. `filter_response_norm` therefore has its backward pass written by hand, for
which it keeps only `x` and one number per example and channel. On a CPU both passes run in blocks that stay
in the cache (`frn_cpu.py`).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from experiments.models import frn_cpu

EPS = 1e-6  # added to the mean square


def filter_response_norm_reference(
    x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float = EPS
) -> Tensor:
    """y = max(gamma x / sqrt(mean_hw(x^2) + eps) + beta, tau), left to autograd: the oracle of the tests."""
    wide = x.to(_wide_dtype(x, gamma))
    gamma, beta, tau = (p[:, None, None] for p in (gamma, beta, tau))
    mean_square = wide.square().mean(dim=(-2, -1), keepdim=True)
    return torch.maximum(gamma * wide / torch.sqrt(mean_square + eps) + beta, tau).to(x.dtype)


def filter_response_norm(x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float = EPS) -> Tensor:
    """The same numbers to rounding, in less time and memory; x is (..., channels, height, width).

    With parameters (examples, channels), all rows alike, the gradients of the examples stay apart.

    Where a value equals the threshold the gradient goes to the threshold, as ReLU's derivative at 0 is 0
    (`torch.maximum` would halve it). bfloat16 input is normalised in float32 and returned as bfloat16.
    """
    if gamma.dim() == 2:
        return _NormaliseEach.apply(x, gamma, beta, tau, eps)
    if torch.compiler.is_compiling():
        return _normalise(x, gamma, beta, tau, eps)[0]  # the compiler fuses the plain formula, backward too
    return _Normalise.apply(x, gamma, beta, tau, eps)[0]


class FilterResponseNorm(nn.Module):
    """Norm and activation in one: gamma = 1, beta = tau = 0 at the start, all three learned per channel."""

    takes_parameters_of_each = True  # for ivon.per_example_backward

    def __init__(self, num_channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(num_channels))
        self.beta = nn.Parameter(torch.zeros(num_channels))
        self.tau = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return filter_response_norm(x, self.gamma, self.beta, self.tau, self.eps)

    def extra_repr(self) -> str:
        return f"{self.gamma.numel()}, eps={self.eps}"


def _wide_dtype(x: Tensor, gamma: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, gamma.dtype), torch.float32)


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y and the inverse root mean square of each example and channel, (..., channels, 1, 1)."""
    wide = x.to(_wide_dtype(x, gamma))
    inverse_rms = torch.rsqrt(wide.square().mean(dim=(-2, -1), keepdim=True) + eps)
    z = wide * (inverse_rms * gamma[:, None, None]) + beta[:, None, None]
    threshold = tau[:, None, None].to(z.dtype)
    return torch.where(z > threshold, z, threshold).to(x.dtype), inverse_rms


def _pull_back(
    dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, inverse_rms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, and of gamma, beta and tau before their sum over examples: (..., channels) each."""
    wide, dy = (t.to(inverse_rms.dtype) for t in (x, dy))
    scale = inverse_rms * gamma[:, None, None]
    above = wide * scale + beta[:, None, None] > tau[:, None, None]
    dz = torch.where(above, dy, torch.zeros_like(dy))
    dz_x = (dz * wide).sum(dim=(-2, -1), keepdim=True)
    pixels = x.shape[-2] * x.shape[-1]
    dx = scale * dz - (scale * inverse_rms.square() * dz_x / pixels) * wide
    dbeta = dz.sum(dim=(-2, -1))
    dtau = dy.sum(dim=(-2, -1)) - dbeta
    return dx.to(x.dtype), (dz_x * inverse_rms).squeeze(-1).squeeze(-1), dbeta, dtau


def _pull_back_from_inputs(
    dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same as a function of the inputs alone, so that autograd differentiates all of it."""
    wide = x.to(_wide_dtype(x, gamma))
    inverse_rms = torch.rsqrt(wide.square().mean(dim=(-2, -1), keepdim=True) + eps)
    return _pull_back(dy, x, gamma, beta, tau, inverse_rms)


class _Normalise(Function):
    """(y, inverse_rms) with the backward written by hand; also under torch.func's grad and vmap."""

    @staticmethod
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if frn_cpu.accepts(x, gamma):
            return frn_cpu.normalise(x, gamma, beta, tau, eps)
        return _normalise(x, gamma, beta, tau, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        dy = cotangents[0]
        if dy is None:
            return None, None, None, None, None
        x, gamma, beta, tau, inverse_rms = ctx.saved_tensors
        dx, *per_example = _PullBack.apply(dy, x, gamma, beta, tau, inverse_rms, ctx.eps)
        return dx, *(g.reshape(-1, len(gamma)).sum(0).to(gamma.dtype) for g in per_example), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        x, *parameters, eps = inputs
        if in_dims[1:] == (None,) * 4:  # one network, many examples: a larger batch
            x = x.movedim(in_dims[0], 0)
            y, inverse_rms = _Normalise.apply(x.reshape(-1, *x.shape[-3:]), *parameters, eps)
            lead = x.shape[:-2]
            return (y.reshape(x.shape), inverse_rms.reshape(*lead, 1, 1)), (0, 0)
        return torch.vmap(_normalise, in_dims)(*inputs), (0, 0)


class _PullBack(Function):
    """The backward pass, itself a function with a batching rule and a derivative (Hessian products)."""

    @staticmethod
    def forward(
        dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, inverse_rms: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if frn_cpu.accepts(x, gamma):
            return frn_cpu.pull_back(dy, x, gamma, beta, tau, inverse_rms)
        return _pull_back(dy, x, gamma, beta, tau, inverse_rms)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _inverse_rms, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        pull_back = partial(_pull_back_from_inputs, eps=ctx.eps)
        differentiate = torch.func.vjp(pull_back, *ctx.saved_tensors)[1]
        return *differentiate(cotangents), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        dy, x, *parameters, inverse_rms, eps = inputs
        dims = in_dims[0], in_dims[1], in_dims[5]
        if in_dims[2:5] == (None,) * 3 and None not in dims:
            dy, x, inverse_rms = (t.movedim(d, 0) for t, d in zip((dy, x, inverse_rms), dims, strict=True))
            flat_dy, flat_x, flat_rms = (t.reshape(-1, *t.shape[-3:]) for t in (dy, x, inverse_rms))
            dx, *sums = _PullBack.apply(flat_dy, flat_x, *parameters, flat_rms, eps)
            return (dx.reshape(x.shape), *(s.reshape(x.shape[:-2]) for s in sums)), (0,) * 4
        return torch.vmap(_pull_back, in_dims[:6])(*inputs[:6]), (0,) * 4


class _NormaliseEach(Function):
    """With a row of parameters for each example, of which the first is everyone's; differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, tau: Tensor, eps: float) -> Tensor:
        of_all = gamma[0], beta[0], tau[0]
        y, inverse_rms = _Normalise.forward(x, *of_all, eps)
        ctx.save_for_backward(x, *of_all, inverse_rms)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, *rest = ctx.saved_tensors
        dx, *of_each = _PullBack.forward(dy, x, gamma, *rest, ctx.eps)
        return dx, *(grads.to(gamma.dtype) for grads in of_each), None
