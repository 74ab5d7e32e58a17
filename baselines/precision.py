"""The precision of what methods learn beside the weights: single at least, whatever that of the weights is.

Running means, curvatures and deviations move by small parts of themselves. In 16 bits these are rounded away:
a mean of hundreds of iterates stands still, and a decay of 0.999 is none. So a statistic is made in single
precision, or in that of its weights where it is higher, and stays in the dtype that it was made in, when it
is saved and loaded and when the weights are converted. The state of `torch.optim`'s own optimizers is theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of statistics about numbers of this floating-point dtype: float32, or itself if it is wider."""
    return torch.promote_types(dtype, torch.float32)


def as_statistic(tensor: Tensor) -> Tensor:
    """The tensor itself, or one of 16 bits in single precision."""
    return tensor.to(statistics_dtype(tensor.dtype))


def zeros_like(param: Tensor) -> Tensor:
    """A statistic of a parameter before anything is known, laid out in memory like the parameter."""
    return torch.zeros_like(param, dtype=statistics_dtype(param.dtype), memory_format=torch.preserve_format)


@contextmanager
def statistics_loaded(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, `optimizer.load_state_dict` leaves statistics in the dtype that they were saved in.

    torch casts them to that of the parameter. The user's hooks have their say: what the last pre-hook hands
    on is loaded, and the first post-hook finds it put right.
    """
    handed_on: dict[str, Any] = {}

    def note(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        handed_on.update(state)

    def put_right(_: torch.optim.Optimizer) -> None:
        saved_ids = chain.from_iterable(group["params"] for group in handed_on["param_groups"])
        params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            for name, value in handed_on["state"].get(saved_id, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    dtype = statistics_dtype(value.dtype)
                    if optimizer.state[param][name].dtype != dtype:
                        optimizer.state[param][name] = value.to(param.device, dtype)

    handles = (
        optimizer.register_load_state_dict_pre_hook(note),
        optimizer.register_load_state_dict_post_hook(put_right, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
