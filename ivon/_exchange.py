"""What each rank has to say, told to all ranks once they have all spoken.

Through the store of the process group, where ranks that wait in vain can say for whom, and why. Collective
calls of ranks that do different things would meet others by accident, or wait without a word.
"""

import json
import time
import warnings
from typing import Any

import torch.distributed as dist

PATIENCE = 60.0  # seconds, before a rank says that it waits

_REMEDY = (
    "All ranks are to draw and step equally often. Optimizers that only some ranks have need a `part` for "
    "all of their parameter groups, and a seed from seed(): they then ask nothing of other ranks"
)


def in_group() -> bool:
    """Whether there are other ranks to talk to."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def told(topic: str, message: Any) -> list[Any]:
    """The messages (for JSON) of all ranks, in order; every rank is to call it, equally often.

    RuntimeError if the ranks speak of different topics, or if one says nothing until the group's timeout.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    if dist.get_backend() == "fake":  # a rehearsal of one rank, without the others
        return [message] * size
    store = dist.distributed_c10d._get_default_store()
    call = store.add(f"ivon/calls of {rank}", 1)
    keys = [f"ivon/{call}/{r}" for r in range(size)]
    everything = f"ivon/{call}/all"
    store.set(keys[rank], json.dumps([topic, message]))
    if rank == 0:  # it reads what all have said, the others only what it has read
        _wait(store, keys, keys, topic)
        store.set(everything, json.dumps([json.loads(store.get(key)) for key in keys]))
    else:
        _wait(store, [everything], keys, topic)
    topics, messages = zip(*json.loads(store.get(everything)), strict=True)
    if set(topics) != {topic}:
        raise RuntimeError(
            f"the ranks of the process group are at different points: {', '.join(topics)}. {_REMEDY}"
        )
    return list(messages)


def _wait(store: Any, wanted: list[str], keys: list[str], topic: str) -> None:
    """Until the wanted keys are there; `keys` are those that the ranks set, which tells who is missing."""
    begin, limit, warned, pause = time.monotonic(), store.timeout.total_seconds(), False, 0.001
    for key in wanted:
        while not store.check([key]):
            time.sleep(pause)  # Store.wait would not look at signals
            pause = min(0.1, 1.5 * pause)
            waited = time.monotonic() - begin
            if waited < limit and (warned or waited < PATIENCE):
                continue
            missing = [str(r) for r, theirs in enumerate(keys) if not store.check([theirs])]
            what = f"rank {dist.get_rank()} waits at its {topic} for rank {', '.join(missing) or 0}"
            if waited >= limit:
                raise RuntimeError(f"{what}: {waited:.0f} s by now. {_REMEDY}")
            warnings.warn(f"{what}. {_REMEDY}", stacklevel=2)
            warned = True
