"""What the ranks of a process group tell each other: one seed, and with `sync` the sums over the draws."""

import torch
import torch.distributed as dist
from torch import Tensor

from ivon._shards import is_sharded
from ivon._state import State


def in_group() -> bool:
    """Whether there are other ranks to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number in the group; 0 without a group."""
    return dist.get_rank() if in_group() else 0


def seed_of_rank_zero(seed: int) -> int:
    """The seed that rank 0 brought; a collective call when there is a group."""
    if not in_group():
        return seed
    box = [seed]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_any_rank(fact: bool, device: torch.device) -> bool:
    """Whether the fact holds on at least one rank; a collective call when there is a group."""
    if not in_group():
        return fact
    flag = torch.tensor(float(fact), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def is_same_on_all_ranks(tensors: list[Tensor], params: list[Tensor]) -> bool:
    """Whether the tensors are, up to a checksum, the same on all ranks of a group; a collective call.

    Without a group, and for those of sharded parameters, False.
    """
    if not in_group() or any(is_sharded(param) for param in params):
        return False
    device = params[0].device
    mark = torch.zeros((), dtype=torch.float64, device=device)
    for i, tensor in enumerate(tensors, start=1):
        mark += i * tensor.detach().sum(dtype=torch.float64).to(device)
    extremes = torch.stack([mark, -mark]).nan_to_num()
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    return bool(extremes[0] == -extremes[1])


def average_where_ranks_differ(params: list[Tensor], states: list[State]) -> None:
    """Average the sums over the ranks unless they are the same on all of them; a collective call.

    They differ where DistributedDataParallel has not averaged the gradients of a draw, within its no_sync(),
    which leaves the means the same. Ranks whose means differ train models of their own.
    """
    if not in_group() or not _is_same_model(params):
        return
    whole = [state for state in states if not is_sharded(state["hess"])]
    if not whole:
        return
    device = whole[0]["hess"].device
    names = ("grad_sum", "product_sum")
    zero = torch.zeros((), dtype=torch.float64, device=device)
    prints = torch.stack([(s[n].double().sum() if n in s else zero).to(device) for n in names for s in whole])
    have = torch.tensor([float("grad_sum" in state) for state in whole], device=device).double()
    extremes = torch.cat([prints, -prints, have, -have]).nan_to_num()
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    high, low, somewhere, everywhere = extremes.split([len(prints)] * 2 + [len(have)] * 2)
    if bool((high == -low).all()) and bool((somewhere == -everywhere).all()):
        return
    for state, wanted in zip(whole, somewhere.tolist(), strict=True):
        for name in names if wanted else ():
            mine = state[name] if name in state else torch.zeros_like(state["hess"])
            state[name] = mine / dist.get_world_size()  # not in place: it may be the user's p.grad
            dist.all_reduce(state[name])


def _is_same_model(params: list[Tensor]) -> bool:
    """Whether all ranks have parameters of the same number, sizes and, up to a checksum, values."""
    whole = [param for param in params if not is_sharded(param)]
    known = [float(len(whole)), float(sum(map(Tensor.numel, whole)))]
    prints = torch.tensor([*known, 0.0], dtype=torch.float64, device=params[0].device)
    for i, param in enumerate(whole, start=1):  # one by one: each is copied
        mean = param.detach().double()
        prints[2] += i * (mean.sum() + mean.square().sum()).to(prints.device)
    extremes = torch.cat([prints, -prints]).nan_to_num()
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    high, low = extremes.chunk(2)
    return bool((high == -low).all())


def sum_over_ranks(states: list[State], weight: float) -> float:
    """Sum `grad_sum` and `product_sum` of parameters of one kind over the ranks; returns that of weights.

    A parameter that had no gradient on some of the ranks counts as zero there; one that had none anywhere
    still has no sums afterwards.
    """
    if not in_group():
        return weight
    like = states[0]["hess"]
    have = [float("grad_sum" in state) for state in states]
    extra = torch.tensor([weight, *have], dtype=like.dtype, device=like.device)
    dist.all_reduce(extra)
    total, *have = extra.tolist()
    summed = [state for state, number in zip(states, have, strict=True) if number > 0]
    for name in ("grad_sum", "product_sum"):  # one after the other: each is a copy of the weights
        _sum_entries(summed, name)
    return total


def _sum_entries(states: list[State], name: str) -> None:
    if not states:
        return
    mine = [state.pop(name) if name in state else torch.zeros_like(state["hess"]) for state in states]
    flat = torch.cat([entry.reshape(-1) for entry in mine])
    mine.clear()
    dist.all_reduce(flat)
    pieces = flat.split([state["hess"].numel() for state in states])
    for state, piece in zip(states, pieces, strict=True):
        entry, hess = piece.view(state["hess"].shape), state["hess"]
        same = entry.stride() == hess.stride()
        state[name] = entry if same else torch.empty_like(hess).copy_(entry)
