"""The state of the optimizer in checkpoints: ours, and those of the released package ivon-opt."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ivon._accumulate import Draws
from ivon._noise import NoiseStream
from ivon._state import COUNT, Group, States, like_param

# In a checkpoint every parameter group has the state of the noise and of the sums over draws, by these names:
# torch.distributed.checkpoint keeps of an optimizer its states and the entries that its groups have when it
# is loaded, and nothing else.
_NOISE = {"seed": "noise_seed", "train_draws": "noise_train_draws", "test_draws": "noise_test_draws"}
_SUMS = {"count": "summed_draws", "weight": "summed_weight", "reduction": "summed_by"}


def note_sampling(groups: list[Group], stream: NoiseStream, draws: Draws) -> None:
    """Write the state of the noise and of the unfinished step into the parameter groups."""
    extra: dict[str, Any] = {_NOISE[name]: value for name, value in asdict(stream).items()}
    extra |= {key: getattr(draws, name) for name, key in _SUMS.items()}
    for group in groups:
        group.update(extra)


def noted_sampling(state_dict: Mapping[str, Any]) -> tuple[NoiseStream, Draws]:
    """What `note_sampling` wrote; ValueError if it is not there."""
    group = state_dict["param_groups"][0]
    missing = [name for name in (*_NOISE.values(), *_SUMS.values()) if name not in group]
    if missing:
        raise ValueError(
            f"the state to load has no {missing[0]!r} in its parameter groups: not saved by ivon.IVON?"
        )
    stream = NoiseStream(**{name: int(group[key]) for name, key in _NOISE.items()})
    count, weight, reduction = (group[key] for key in _SUMS.values())
    return stream, Draws(count=int(count), weight=float(weight), reduction=str(reduction))


def check_shapes(state_dict: Mapping[str, Any], params: list[Tensor]) -> None:
    """Raise ValueError if a state belongs to a parameter of another shape."""
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    for place, (i, param) in enumerate(zip(ids, params, strict=False)):
        for name, value in state_dict["state"].get(i, {}).items():
            if isinstance(value, Tensor) and value.shape != param.shape:
                raise ValueError(
                    f"parameter {place} has shape {tuple(param.shape)}, but its {name} in the state to load "
                    f"has shape {tuple(value.shape)}: the state of another model?"
                )


def take_states(state_dict: Mapping[str, Any], groups: list[Group], states: States) -> None:
    """Put the saved states of the parameters in `states`, in full precision.

    torch.optim casts them to the dtype of the parameter and so rounds those of 16-bit parameters.
    """
    params = [param for group in groups for param in group["params"]]
    saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    for i, param in zip(saved_ids, params, strict=True):
        for name, value in state_dict["state"].get(i, {}).items():
            if isinstance(value, Tensor):
                states[param][name] = like_param(value, param)


def without_counts(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state for a checkpoint: `step` says what the counts on the device do."""
    states = {
        i: {name: value for name, value in state.items() if name != COUNT}
        for i, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


class Memory:
    """Where the tensors of an optimizer are: a CUDA graph goes on using that memory after a load."""

    def __init__(self, groups: list[Group], states: States) -> None:
        self._rates = [group["lr"] for group in groups]
        self._states = {
            param: dict(states[param]) for group in groups for param in group["params"] if param in states
        }

    def keep(self, groups: list[Group], states: States) -> None:
        """Copy what was loaded to where its predecessor is, if that is of the same kind."""
        for group, rate in zip(groups, self._rates, strict=True):
            if isinstance(rate, Tensor):
                group["lr"] = rate.copy_(torch.as_tensor(group["lr"]))
        for param, old in self._states.items():
            new = states.get(param, {})
            for name, tensor in old.items():
                if name == COUNT and "step" in new:
                    new[name] = tensor.fill_(new["step"])
                elif isinstance(tensor, Tensor) and name in new and _alike(tensor, new[name]):
                    new[name] = tensor.copy_(new[name])


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape,
        other.stride(),
        other.dtype,
        other.device,
    )


def is_of_ivon_opt(state_dict: Mapping[str, Any]) -> bool:
    """Whether the released package ivon-opt (0.1.3) has saved it."""
    groups = state_dict["param_groups"]
    return bool(groups) and all({"numel", "hess", "momentum"} <= group.keys() for group in groups)


def from_ivon_opt(state_dict: Mapping[str, Any], params: list[list[Tensor]]) -> dict[str, Any]:
    """Its state, where each group has flat tensors, as one by parameter; `params` are those of each group.

    The package does not save how many steps were made. Where there is momentum they count as so many that the
    bias correction is over.
    """
    if state_dict["state"].get("count"):
        raise ValueError(
            "a state of ivon-opt saved between the draws of a step cannot be loaded: save after step()"
        )
    states: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for old, members in zip(state_dict["param_groups"], params, strict=True):
        sizes = [param.numel() for param in members]
        if old["numel"] != sum(sizes):
            raise ValueError(
                f"a parameter group has {sum(sizes)} numbers, that of the state to load {old['numel']}: "
                f"the state of another model?"
            )
        settled = math.ceil(math.log(1e-17) / math.log(old["beta1"])) if old["beta1"] > 0 else 1
        steps = settled if old["momentum"].count_nonzero() else 0
        pieces = zip(
            old["params"], members, old["hess"].split(sizes), old["momentum"].split(sizes), strict=True
        )
        for i, param, hess, momentum in pieces:
            states[i] = {
                "step": steps,
                "hess": hess.view(param.shape),
                "momentum": momentum.view(param.shape),
            }
        groups.append({k: v for k, v in old.items() if k not in ("numel", "hess", "momentum", "mc_samples")})
    return {"state": states, "param_groups": groups}
