"""The IVON inside the wrappers of training libraries, found by their attributes: none of them is imported.

accelerate and LightningOptimizer keep the optimizer in `.optimizer`, ZeRO-like ones in `.optim`, others where
they like: whatever has the methods of an optimizer is looked into.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from ivon.optimizer import IVON

_ATTRIBUTES = ("optimizer", "_optimizer", "optim")  # of those whose wrappers may be no optimizers themselves


def find_ivon(optimizer: Any) -> IVON:
    """The one IVON that `optimizer` is, wraps at any depth, or, as a list, tuple or dict, contains.

    TypeError if there is none. ValueError if there are several, or if a wrapper optimizes parameters that no
    optimizer inside has: draws of such a part (a rank's share in ZeroRedundancyOptimizer) would differ from
    rank to rank.
    """
    paths = list(_paths(optimizer, []))
    found = {id(path[-1]): path for path in paths if isinstance(path[-1], IVON)}
    if not found:
        seen = ", ".join(" > ".join(type(thing).__name__ for thing in path) for path in paths)
        raise TypeError(f"optimizer must be an ivon.IVON or wrap one, got {seen}")
    if len(found) > 1:
        raise ValueError(f"optimizer must have one ivon.IVON, got {len(found)}: name the one you mean")
    path = found.popitem()[1]
    for wrapper in path[:-1]:
        inside = {id(p) for way in paths if any(x is wrapper for x in way) for p in _params(way[-1])}
        if any(id(param) not in inside for param in _params(wrapper)):
            raise ValueError(
                f"optimizer must not split its parameters, got {type(wrapper).__name__} with parameters that "
                f"the IVON inside lacks; torch.distributed.fsdp.fully_shard also shards the optimizer's state"
            )
    return path[-1]


def sampled_params(optimizer: Any, train: bool = False, **options: Any) -> AbstractContextManager[None]:
    """`IVON.sampled_params` of the IVON that `find_ivon` finds, with the same arguments.

    Example: `with ivon.sampled_params(self.optimizer, train=True): ...` within Hugging Face's Trainer.
    """
    return find_ivon(optimizer).sampled_params(train, **options)


def _paths(thing: Any, outer: list[Any]) -> Iterator[list[Any]]:
    """Ways from the outermost wrapper to what wraps nothing more.

    Attributes come before the type: a LightningOptimizer says it is an IVON, but has none of its state.
    """
    path = [*outer, thing]
    inner = list(_inside(thing))
    if not inner or any(thing is seen for seen in outer):
        yield path
        return
    for value in inner:
        yield from _paths(value, path)


def _inside(thing: Any) -> Iterable[Any]:
    if isinstance(thing, dict | list | tuple):
        return _members(thing)
    named = [value for name in _ATTRIBUTES if (value := getattr(thing, name, None)) is not None]
    if isinstance(thing, IVON):
        return named[:1]
    held = (value for kept in _attributes(thing) for value in _members(kept) if _is_optimizer(value))
    return {id(value): value for value in (*named[:1], *held)}.values()


def _attributes(thing: Any) -> Iterator[Any]:
    """What it holds: not what properties compute, or its class has."""
    yield from vars(thing).values() if hasattr(thing, "__dict__") else ()
    for base in type(thing).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name != "__dict__":
                yield getattr(thing, name, None)


def _members(kept: Any) -> Iterable[Any]:
    if isinstance(kept, dict):
        return kept.values()
    return kept if isinstance(kept, list | tuple) else [kept]


def _is_optimizer(thing: Any) -> bool:
    methods = (getattr(thing, name, None) for name in ("step", "zero_grad"))
    return not isinstance(thing, type) and all(map(callable, methods))


def _params(optimizer: Any) -> Iterator[Any]:
    for group in getattr(optimizer, "param_groups", None) or []:
        yield from group["params"]
