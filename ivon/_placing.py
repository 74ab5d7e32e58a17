"""Values by parameter name, and the model that they belong to."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ivon._fsdp1 import is_flattened
from ivon._shards import is_sharded

Values = Mapping[str, Tensor]  # by parameter name


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by name, tied ones once.

    The names are those of the bare model: DistributedDataParallel and torch.compile add nothing to them.
    ValueError if FullyShardedDataParallel has parts of them only.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"model must be a torch.nn.Module, which names its parameters; got {model!r}")
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    if is_flattened(list(model.parameters())):
        raise ValueError(
            "model must not be one of FullyShardedDataParallel, whose parameters are nowhere whole: load its "
            "states into the bare model, or use torch.distributed.fsdp.fully_shard"
        )
    return {name.replace("_orig_mod.", ""): param for name, param in model.named_parameters()}


def matching(model: nn.Module, values: Values, fixed: Collection[str]) -> dict[str, nn.Parameter]:
    """The parameters of a model that `values` names; with those in `fixed` they must be all that it has.

    Raises ValueError with the name of the first parameter that does not fit.
    """
    params = named_parameters(model)
    for name in (*values, *fixed):
        if name not in params:
            raise ValueError(f"the model has no parameter {name!r}, which the posterior has")
        if name in values and values[name].shape != params[name].shape:
            raise ValueError(
                f"parameter {name!r} has shape {tuple(params[name].shape)} in the model "
                f"and {tuple(values[name].shape)} in the posterior"
            )
    for name in params:
        if name not in values and name not in fixed:
            raise ValueError(f"parameter {name!r} of the model is not in the posterior")
    return {name: params[name] for name in values}


@torch.no_grad()
def write(params: Mapping[str, nn.Parameter], values: Values) -> None:
    """Set the parameters in place; those of 16 bits are rounded, sharded ones get their shard."""
    for name, param in params.items():
        value = values[name]
        if is_sharded(param) and not is_sharded(value):
            value = _shard_like(value, param)
        param.copy_(value)
    # Within an autocast block the 16-bit copies of the weights would be those of the values before.
    torch.clear_autocast_cache()


@contextmanager
def restored(params: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """After the context, whichever way it is left, the parameters have the bits that they had before."""
    before = {name: param.detach().clone() for name, param in params.items()}
    try:
        yield
    finally:
        write(params, before)


def _shard_like(value: Tensor, param: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(param, DTensor)
    # All ranks have the same value, so none sends it to the others.
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements, src_data_rank=None)
