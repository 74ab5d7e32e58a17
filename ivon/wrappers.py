"""The IVON inside the wrappers of training libraries, found by their attributes: none of them is imported.

accelerate and LightningOptimizer keep the optimizer in `.optimizer`, ZeRO-like ones in `.optim`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from ivon.optimizer import IVON

_ATTRIBUTES = ("optimizer", "_optimizer", "optim")


def find_ivon(optimizer: Any) -> IVON:
    """The one IVON that `optimizer` is, wraps at any depth, or, as a list or tuple, contains.

    TypeError if there is none. ValueError if there are several, or if the wrapper optimizes parameters that
    the IVON inside does not have: draws of such a part (a rank's share in ZeroRedundancyOptimizer) would
    differ from rank to rank.
    """
    paths = list(_paths(optimizer, []))
    found = {id(path[-1]): path for path in paths if isinstance(path[-1], IVON)}
    if not found:
        seen = ", ".join(" > ".join(type(thing).__name__ for thing in path) for path in paths)
        raise TypeError(f"optimizer must be an ivon.IVON or wrap one, got {seen}")
    if len(found) > 1:
        raise ValueError(f"optimizer must have one ivon.IVON, got {len(found)}: name the one you mean")
    path = found.popitem()[1]
    ivon = path[-1]
    own = {id(param) for param in _params(ivon)}
    for wrapper in path[:-1]:
        if any(id(param) not in own for param in _params(wrapper)):
            raise ValueError(
                f"optimizer must not split its parameters, got {type(wrapper).__name__} with parameters that "
                f"the IVON inside lacks; torch.distributed.fsdp.fully_shard also shards the optimizer's state"
            )
    return ivon


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
    if isinstance(thing, list | tuple):
        inner = list(thing)
    else:
        values = (getattr(thing, name, None) for name in _ATTRIBUTES)
        inner = [value for value in values if value is not None][:1]
    if not inner or any(thing is seen for seen in outer):
        yield path
        return
    for value in inner:
        yield from _paths(value, path)


def _params(optimizer: Any) -> Iterator[Any]:
    for group in getattr(optimizer, "param_groups", None) or []:
        yield from group["params"]
