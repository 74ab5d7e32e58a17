"""Sums over the draws of a step, with `sync` over those of all ranks."""

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor

from ivon._exchange import in_group
from ivon._parts import Parts
from ivon._shards import is_sharded
from ivon._state import Group, State
from ivon._traits import Trait, trait


def rank() -> int:
    """This process's number in the group; 0 without a group."""
    return dist.get_rank() if in_group() else 0


def on_any_rank(fact: bool, device: torch.device) -> bool:
    """Whether the fact holds on at least one rank; a collective call when there is a group."""
    if not in_group():
        return fact
    flag = torch.tensor(float(fact), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def is_same_on_all_ranks(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether the tensors are, up to a checksum, the same on all ranks of a group; a collective call."""
    mark = torch.zeros((), dtype=torch.float64, device=device)
    for i, tensor in enumerate(tensors, start=1):
        mark += i * tensor.detach().sum(dtype=torch.float64).to(device)
    extremes = torch.stack([mark, -mark]).nan_to_num()
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    return bool(extremes[0] == -extremes[1])


def average_where_ranks_differ(
    groups: list[Group], params: list[Tensor], states: list[State], parts: Parts
) -> None:
    """Average the sums over the ranks unless they are the same on all of them; a collective call.

    They differ where DistributedDataParallel has not averaged the gradients of a draw, within its no_sync(),
    which leaves the means the same. Ranks whose means differ train models of their own. Of parameters that
    only some ranks have copies of, sums that differ are a RuntimeError.
    """
    if not in_group():
        return
    names, flats = parts.names(groups), parts.flats(groups)
    plain = [i for i, p in enumerate(params) if not is_sharded(p) and flats.place(p) is None]
    if parts.has_copies:
        _check_copies([(names[id(p)], p, states[i]) for i in plain if id(p := params[i]) in names])
    everywhere = [i for i in plain if id(params[i]) not in names]
    whole = [states[i] for i in everywhere]
    if not whole or not _is_same_model([params[i] for i in everywhere]):
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
    known = [float(len(params)), float(sum(map(Tensor.numel, params)))]
    prints = torch.tensor([*known, 0.0], dtype=torch.float64, device=params[0].device)
    for i, param in enumerate(params, start=1):  # one by one: each is copied
        mean = param.detach().double()
        prints[2] += i * (mean.sum() + mean.square().sum()).to(prints.device)
    extremes = torch.cat([prints, -prints]).nan_to_num()
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    high, low = extremes.chunk(2)
    return bool((high == -low).all())


def _check_copies(held: list[tuple[str, Tensor, State]]) -> None:
    """RuntimeError if the sums of copies differ; a collective call."""
    mine: dict[str, list[Trait]] = defaultdict(list)
    for name, param, state in held:
        mine[name].append(trait(param, None, state.get("grad_sum")))
    table: list[dict[str, list[Trait]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(table, dict(mine))
    for name in {name for of_rank in table for name in of_rank}:
        first, *others = [of_rank[name] for of_rank in table if name in of_rank]
        for other in others:
            if not all(a.is_like(b) for a, b in zip(first, other, strict=True)):
                raise RuntimeError(
                    f"ranks with copies of one part ({name}) have different gradients: let those of every "
                    f"draw be averaged (without no_sync()), or call step() after each draw"
                )


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
