"""The kernels of _triton.py on lists of parameters: when they are used, and how they are launched."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ivon import _kernels
from ivon._native import WRONG_SIZE, tell_autograd
from ivon._noise import seed_of
from ivon._shards import any_sharded
from ivon._state import State
from ivon._stretches import all_lie_alike, laid_out_like


@dataclass(frozen=True)
class Draw:
    """The noise of a draw of parameters: its seed, and where in its numbers those of each parameter begin."""

    seed: int
    groups: tuple[int, ...]  # in groups of four numbers
    total: int  # of groups

    def part(self, chosen: list[int]) -> "Draw":
        """That of some of the parameters."""
        return Draw(self.seed, tuple(self.groups[i] for i in chosen), self.total)

    def memory(self, device: torch.device) -> Tensor:
        """Memory for a number of each parameter, in the order of the noise, and for the mark of a draw."""
        return torch.empty(4 * self.total + 4, device=device)

    def views(self, memory: Tensor, alike: list[Tensor]) -> list[Tensor]:
        """The parts of the memory, each laid out like its tensor."""
        places = zip(alike, self.groups, strict=True)
        return [memory.as_strided(t.shape, t.stride(), 4 * group) for t, group in places]


def new_draw(params: list[Tensor], key: str) -> Draw:
    """A draw that is a function of `key` and of the sizes of the parameters."""
    # 62 bits with the highest set: of one type in Triton, whatever the others are.
    seed = seed_of(key) >> 2 | 1 << 61
    *groups, total = accumulate((-(-p.numel() // 4) for p in params), initial=0)
    return Draw(seed, tuple(groups), total)


def no_draw(params: list[Tensor]) -> Draw:
    """For a step from sums, which needs no noise."""
    return Draw(1 << 61, (0,) * len(params), 0)


def usable(params: list[Tensor], states: list[State]) -> bool:
    """Whether the kernels can do parameters of one kind: in float32, on a GPU, whole, and without gaps."""
    first = params[0]
    return (
        first.dtype is torch.float32
        and _is_gpu(first.device)
        and not any_sharded(params)
        and all_lie_alike(params, [s["hess"] for s in states], [s["momentum"] for s in states])
        and works(first.device)
    )


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


class Trip:
    """The way of parameters to a draw and back, whatever signal comes.

    `kept`, from `Draw.memory`, has the means while the parameters are at the draw. A signal may come before
    or after a launch, which Python cannot tell: the kernels leave a mark, and look for it on the way back.
    """

    def __init__(self, params: list[Tensor], kept: Tensor, drawn: Draw) -> None:
        self._params, self._drawn = params, drawn
        self._kept: Tensor | None = kept  # until they are back
        self._sizes = list(map(Tensor.numel, params))
        self._addresses = list(map(Tensor.data_ptr, params))
        self._job: _Job | None = None  # there while they may be at the draw

    def go(self, hess: list[Tensor], *, noise_scale: float, weight_decay: float) -> None:
        """params: m <- theta; kept: m."""
        from ivon import _triton

        assert self._kept is not None
        begin = self._kept.data_ptr()
        kept = [begin + 16 * group for group in self._drawn.groups]
        mark = begin + 16 * self._drawn.total
        addresses = (*self._addresses, *kept, *map(Tensor.data_ptr, hess), mark)
        self._job = _job(self._params, addresses, self._drawn)
        _start(self._job, _triton.draw, self._drawn.seed, float(noise_scale), float(weight_decay))
        tell_autograd(self._params)

    def is_away(self) -> bool:
        """Whether the parameters are at the draw."""
        return self._job is not None

    def is_open(self) -> bool:
        """Whether the parameters are what they were at the draw: not moved, converted nor resized since."""
        now = self._params
        return (
            list(map(Tensor.data_ptr, now)) == self._addresses
            and list(map(Tensor.numel, now)) == self._sizes
            and set(map(attrgetter("dtype"), now)) == {torch.float32}
        )

    def back(self) -> None:
        """params: theta <- m; if they are at the draw."""
        from ivon import _triton

        if self._job is not None:
            _start(self._job, _triton.restore, self._drawn.seed)
            self._job = self._kept = None
            tell_autograd(self._params)


def add(
    drawn: Draw,
    hess: list[Tensor],
    grads: list[Tensor],
    product_sums: list[Tensor],
    grad_sums: list[Tensor] | None,
    *,
    noise_scale: float,
    weight_decay: float,
    weight: float,
    estimator: str,
) -> None:
    """weight * product added to its sum, and weight * grad to its own; without that, the first products.

    All are laid out in memory like the Hessian.
    """
    from ivon import _triton

    _launch(
        _triton.add,
        [hess, grads, product_sums, grad_sums or product_sums],
        drawn,
        noise_scale,
        weight_decay,
        weight,
        price=estimator == "price",
        first=grad_sums is None,
    )


def update(
    drawn: Draw,
    params: list[Tensor],
    hess: list[Tensor],
    momentum: list[Tensor],
    grads: list[Tensor],
    products: list[Tensor],
    *,
    noise_scale: float,
    n: _kernels.Numbers,
    flags: _kernels.Flags,
) -> None:
    """`_kernels.update`, of sums or with the noise of the draw."""
    from ivon import _triton

    roles = [params, hess, momentum, laid_out_like(hess, grads)]
    if flags.summed:
        roles.append(laid_out_like(hess, products))
    _launch(
        _triton.update,
        roles,
        drawn,
        noise_scale,
        *n,
        price=flags.estimator == "price",
        summed=flags.summed,
        clipped=flags.clipped,
    )
    tell_autograd(params)


class _Layout(NamedTuple):
    """Which program does what: entry numbers and groups by tensor, tensor and chunk by program."""

    numels: Tensor
    groups: Tensor
    tensor_of: Tensor
    chunk_of: Tensor


class _Job(NamedTuple):
    """What a kernel is to be done with."""

    device: torch.device
    table: Tensor  # of addresses
    layout: _Layout
    n: int  # parameters
    aligned: bool


def _launch(kernel: Any, roles: Sequence[list[Tensor]], drawn: Draw, *numbers: float, **flags: Any) -> None:
    first, *others = (list(map(Tensor.numel, role)) for role in roles)
    if any(sizes != first for sizes in others):
        raise RuntimeError(WRONG_SIZE)
    addresses = tuple(map(Tensor.data_ptr, chain.from_iterable(roles)))
    _start(_job(roles[0], addresses, drawn), kernel, drawn.seed, *map(float, numbers), **flags)


def _job(params: list[Tensor], addresses: tuple[int, ...], drawn: Draw) -> _Job:
    device = params[0].device
    with _within(device):
        # A table is on its way to the GPU for the stream that has asked for it.
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        layout = _layout(tuple(map(Tensor.numel, params)), drawn.groups, device, stream)
        aligned = all(address % 16 == 0 for address in addresses)
        return _Job(device, _on_device(addresses, device, stream), layout, len(params), aligned)


def _start(job: _Job, kernel: Any, *numbers: float, **flags: Any) -> None:
    from ivon import _triton

    programs = len(job.layout.tensor_of)
    if programs:
        with _within(job.device):
            kernel[(programs,)](
                *(job.table, *job.layout, job.n, *numbers),
                **flags,
                aligned=job.aligned,
                block=_triton.BLOCK,
            )


def _within(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=64)
def _layout(numels: tuple[int, ...], groups: tuple[int, ...], device: torch.device, stream: int) -> _Layout:
    from ivon import _triton

    sizes = torch.tensor(numels, device="cpu")
    chunks = -(-sizes // (4 * _triton.BLOCK))
    tensor_of = torch.arange(len(sizes), device="cpu").repeat_interleave(chunks)
    begins = chunks.cumsum(0) - chunks
    chunk_of = torch.arange(len(tensor_of), device="cpu") - begins[tensor_of]
    parts = (sizes, torch.tensor(groups, device="cpu"), tensor_of.int(), chunk_of.int())
    return _Layout(*(_sent(part, device) for part in parts))


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    return _sent(torch.tensor(numbers, device="cpu"), device)


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, for which nobody waits: that takes pinned memory."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


@cache
def works(device: torch.device) -> bool:
    """Whether the kernels compile for this device and compute what `_kernels.update` does; with a warning."""
    try:
        wrong = _error(device)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}".partition("\n")[0]
    if wrong:
        warnings.warn(f"IVON's step is made of several kernels, and slower for it: {wrong}", stacklevel=2)
    return not wrong


@torch.no_grad()
def _error(device: torch.device) -> str:
    """What is wrong with a draw and a step of some numbers; nothing, if nothing is."""
    from ivon._operations import SINGLE

    size, floor = 5000, 1e-18
    numbers = torch.Generator().manual_seed(0)
    mean, grad = (torch.randn(size, generator=numbers, device="cpu").to(device) for _ in range(2))
    hess, momentum, theta = torch.ones_like(mean), grad.clone(), mean.clone()
    drawn = new_draw([mean], "trial")
    trip = Trip([theta], drawn.memory(device), drawn)
    trip.go([hess], noise_scale=0.1, weight_decay=0.5)
    noise = theta.double() - mean
    trip.back()
    spread = (noise.square().mean().item() * 150) ** 0.5  # of standard normals
    if not theta.equal(mean) or not 0.9 < spread < 1.1 or noise.unique().numel() < 0.99 * size:
        return f"a draw of {size} normals has a deviation of {spread:.2f}"
    n = _kernels.Numbers(100.0, 1.0, 0.1, 0.1, 0.5, 0.05, 1.0, 0.1, floor)
    flags = _kernels.Flags("price", summed=False, clipped=True)
    m, h, g = mean.double(), hess.double(), momentum.double()
    _kernels.update(SINGLE, m, h, g, grad.double(), noise, n=n, flags=flags)
    update(drawn, [mean], [hess], [momentum], [grad], [], noise_scale=0.1, n=n, flags=flags)
    off = max((found - x).abs().max().item() for found, x in ((mean, m), (hess, h), (momentum, g)))
    return "" if off < 1e-4 else f"a trial step is off by {off:.1e}"
