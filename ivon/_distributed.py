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


def average_where_ranks_differ(states: list[State]) -> None:
    """Average the sums over the ranks unless they are the same on all of them; a collective call.

    They differ where DistributedDataParallel has not averaged the gradients of a draw, within its no_sync().
    """
    whole = [state for state in states if not is_sharded(state["hess"])]
    if not in_group() or not whole:
        return
    device = whole[0]["hess"].device
    names = ("grad_sum", "product_sum")
    zero = torch.zeros((), dtype=torch.float64)
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


def sum_over_ranks(states: list[State], weight: float) -> float:
    """Sum `grad_sum` and `product_sum` of parameters of one kind over the ranks; returns that of weights.

    One all-reduce of one flat tensor. A parameter that had no gradient on some of the ranks counts as zero
    there; one that had none anywhere still has no sums afterwards.
    """
    if not in_group():
        return weight
    hess = [state["hess"] for state in states]
    have = [float("grad_sum" in state) for state in states]
    sums = [
        state[name] if "grad_sum" in state else torch.zeros_like(state["hess"])
        for name in ("grad_sum", "product_sum")
        for state in states
    ]
    extra = torch.tensor([weight, *have], dtype=hess[0].dtype, device=hess[0].device)
    flat = torch.cat([extra, *(s.reshape(-1) for s in sums)])
    dist.all_reduce(flat)
    extra, *pieces = flat.split([extra.numel(), *(s.numel() for s in sums)])
    total, *have = extra.tolist()
    for i, state in enumerate(states):
        if have[i] > 0:
            state["grad_sum"] = _like(pieces[i], hess[i])
            state["product_sum"] = _like(pieces[len(states) + i], hess[i])
    return total


def _like(flat: Tensor, target: Tensor) -> Tensor:
    return torch.empty_like(target).copy_(flat.view(target.shape))
