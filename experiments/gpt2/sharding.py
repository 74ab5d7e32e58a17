"""GPT-2 divided among the processes of a run (FSDP2): each holds its part of the weights, their gradients and
the method's state, and gathers a block's weights for as long as it computes with them.

A checkpoint has the whole of everything, so a run may be continued by another number of processes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from experiments.models.gpt2.network import GPT2


def shard(model: GPT2) -> None:
    """Divide the weights of each block, and the embeddings and the last norm together."""
    for block in model.blocks:
        if next(block.parameters()).is_cuda:
            block.compile()
        fully_shard(block)
    fully_shard(model)


def release(model: nn.Module) -> None:
    """Let go of the gathered weights that a forward pass without a backward pass has left."""
    if isinstance(model, FSDPModule):
        model.reshard()


def gathered(state: Any) -> Any:
    """A state with whole tensors in place of parts; to be called by all processes together."""
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    # One after the other to the CPU, as a device might not hold them all.
    return state.full_tensor().cpu() if isinstance(state, DTensor) else state


def load_model(model: nn.Module, state: dict[str, Any]) -> None:
    """`load_state_dict` from whole tensors, whether the model is divided or not."""
    if isinstance(model, FSDPModule):
        # In a dict of its own, as what goes to the device is put in place of what the dict held.
        set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)


def divided(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of a method, whole in a checkpoint, with this process's parts of what belongs to its parts of
    the parameters.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    entries = {
        number: {name: _like(value, params[number]) for name, value in found.items()}
        for number, found in state["optimizer"]["state"].items()
    }
    return {**state, "optimizer": {**state["optimizer"], "state": entries}}


def _like(value: Any, param: Tensor) -> Any:
    if not (isinstance(param, DTensor) and isinstance(value, Tensor) and value.shape == param.shape):
        return value
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements)
