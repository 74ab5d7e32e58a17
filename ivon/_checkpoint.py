"""The state of the optimizer in checkpoints: ours, and those of the released package ivon-opt."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ivon._accumulate import Draws
from ivon._noise import NoiseStream
from ivon._settings import without_prior
from ivon._state import ON_DEVICE, PER_ENTRY, SUMS, Group, States, is_counted, like_param, momentum_weight

# In a checkpoint every parameter group has the state of the noise and of the sums over draws, and what the
# state was learned with, by these names:
# torch.distributed.checkpoint keeps of an optimizer its states and the entries that its groups have when it
# is loaded, and nothing else.
_NOISE = {"seed": "noise_seed", "train_draws": "noise_train_draws", "test_draws": "noise_test_draws"}
_SUMS = {"count": "summed_draws", "weight": "summed_weight"}
_REDUCTION = "summed_by"  # not in checkpoints of earlier versions, whose draws are averaged
_LEARNED = {name: f"learned_with_{name}" for name in ("hess_approx", "debias", "rescale_lr")}


def note_sampling(groups: list[Group], stream: NoiseStream, draws: Draws) -> None:
    """Write the state of the noise and of the unfinished step into the parameter groups."""
    extra: dict[str, Any] = {_NOISE[name]: value for name, value in asdict(stream).items()}
    extra |= {key: getattr(draws, name) for name, key in _SUMS.items()}
    extra[_REDUCTION] = draws.reduction
    for group in groups:
        group.update(extra)


def noted_sampling(group: Group) -> tuple[NoiseStream, Draws]:
    """What `note_sampling` wrote; ValueError if it is not there."""
    missing = [name for name in (*_NOISE.values(), *_SUMS.values()) if name not in group]
    if missing:
        raise ValueError(
            f"the state to load has no {missing[0]!r} in its parameter groups: not saved by ivon.IVON?"
        )
    stream = NoiseStream(**{name: int(group[key]) for name, key in _NOISE.items()})
    count, weight = int(group[_SUMS["count"]]), float(group[_SUMS["weight"]])
    return stream, Draws(count=count, weight=weight, reduction=str(group.get(_REDUCTION, "mean")))


def note_learned_with(groups: list[Group], settings: Mapping[str, Any]) -> None:
    """Write into the parameter groups the settings of the whole optimizer that a state is learned with."""
    for group in groups:
        group.update({key: settings[name] for name, key in _LEARNED.items()})


def differences(group: Group, settings: Mapping[str, Any]) -> str:
    """What the state of a group was learned with, where `settings` differ; nothing, if nothing does."""
    then = {name: group[key] for name, key in _LEARNED.items() if key in group}
    return ", ".join(f"{name}={was!r}" for name, was in then.items() if was != settings[name])


class Load:
    """A load, between the hooks of torch.optim.Optimizer that come before it and those that come after it."""

    def __init__(self, groups: list[Group], settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._had_prior = not without_prior(groups)
        self.stream: NoiseStream | None = None  # if one was saved
        self.draws = Draws()
        self._differences = self._estimate = ""

    def begin(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """What is to be loaded, checked, in our format."""
        groups, saved_groups = optimizer.param_groups, state_dict["param_groups"]
        if not saved_groups or len(groups) != len(saved_groups):
            return state_dict  # which torch.optim refuses next
        if is_of_ivon_opt(state_dict):
            state_dict = from_ivon_opt(state_dict, [group["params"] for group in groups])
            steps = max(state["step"] for state in state_dict["state"].values())
            self._estimate = str(steps) if steps else ""
        else:
            self.stream, self.draws = noted_sampling(saved_groups[0])
            self._differences = differences(saved_groups[0], self._settings)
        _check_states(state_dict, [param for group in groups for param in group["params"]])
        self._memory = Memory(groups, optimizer.state)
        self._state_dict = state_dict
        return state_dict

    def end(self, groups: list[Group], states: States) -> None:
        """Put right what torch.optim has loaded."""
        _take_states(self._state_dict, groups, states)
        self._memory.keep(groups, states)

    def warnings(self, groups: list[Group]) -> Iterator[str]:
        """What there is to say once it is done."""
        if self._differences:
            yield (
                f"the state that is loaded was learned with {self._differences}, unlike what this optimizer "
                f"goes on with; if that is not meant, load it into IVON(..., {self._differences})"
            )
        if self._estimate:
            yield (
                f"the state that is loaded was saved by ivon-opt, which does not save the number of steps: "
                f"`step` is an estimate, {self._estimate}, from which on there is no bias left to correct; "
                f"ivon.diagnose and whatever else reads `step` has that number"
            )
        if self._had_prior and (text := without_prior(groups)):
            yield text


def _check_states(state_dict: Mapping[str, Any], params: list[Tensor]) -> None:
    """Raise ValueError if a state is not whole, or belongs to a parameter of another shape."""
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    for place, (i, param) in enumerate(zip(ids, params, strict=False)):
        state = state_dict["state"].get(i, {})
        missing = [name for name in ("step", "hess", "momentum") if name not in state]
        if missing and not state.keys().isdisjoint(PER_ENTRY):
            raise ValueError(f"the state to load has no {missing[0]!r} for parameter {place}")
        for name in (*PER_ENTRY, *SUMS):
            if name in state and state[name].shape != param.shape:
                raise ValueError(
                    f"parameter {place} has shape {tuple(param.shape)}, but its {name} in the state to load "
                    f"has shape {tuple(state[name].shape)}: the state of another model?"
                )


def _take_states(state_dict: Mapping[str, Any], groups: list[Group], states: States) -> None:
    """Put the saved states of the parameters in `states`, in full precision.

    torch.optim casts them to the dtype of the parameter and so rounds those of 16-bit parameters.
    """
    saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    members = [(group, param) for group in groups for param in group["params"]]
    for i, (group, param) in zip(saved_ids, members, strict=True):
        saved = state_dict["state"].get(i, {})
        for name in (*PER_ENTRY, *SUMS):
            if name in saved:
                states[param][name] = like_param(saved[name], param)
        if "step" in saved:
            state = states[param]
            state["step"] = int(saved["step"])
            state["momentum_weight"] = float(momentum_weight(saved, group["beta1"]))


def drop_counts(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state for a checkpoint: `step` and `momentum_weight` say what the counts on the device do."""
    return {**state_dict, "state": {i: _without_counts(state) for i, state in state_dict["state"].items()}}


def _without_counts(state: Any) -> Any:
    if not isinstance(state, dict):  # of no parameter
        return state
    dropped = ON_DEVICE.values() if is_counted(state) else ()
    return {name: value for name, value in state.items() if name not in dropped}


class Memory:
    """Where the tensors of an optimizer are: a CUDA graph goes on using that memory after a load."""

    def __init__(self, groups: list[Group], states: States) -> None:
        self._rates = [group["lr"] for group in groups]
        kept = (*PER_ENTRY, *ON_DEVICE.values())
        self._states = {
            param: {name: states[param][name] for name in kept if name in states[param]}
            for group in groups
            for param in group["params"]
            if param in states
        }

    def keep(self, groups: list[Group], states: States) -> None:
        """Copy what was loaded to where its predecessor is, if that is of the same kind."""
        for group, rate in zip(groups, self._rates, strict=True):
            if isinstance(rate, Tensor):
                group["lr"] = rate.fill_(float(group["lr"]))
        for param, old in self._states.items():
            new = states.get(param, {})
            for name, on_device in ON_DEVICE.items():
                if on_device in old and name in new:
                    new[on_device] = old[on_device].fill_(new[name])
            for name in PER_ENTRY:
                if name in old and name in new and _alike(old[name], new[name]):
                    new[name] = old[name].copy_(new[name])


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

    The package does not save how many steps were made: `step` is an estimate. Where there is momentum it is
    the number from which on the bias correction is over.
    """
    if state_dict["state"].get("count"):
        raise ValueError(
            "a state of ivon-opt saved between the draws of a step cannot be loaded: save after step()"
        )
    states: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for old, members in zip(state_dict["param_groups"], params, strict=True):
        sizes = [param.numel() for param in members]
        if old["numel"] != sum(sizes) or len(old["params"]) != len(sizes):
            raise ValueError(
                f"a parameter group has {sum(sizes)} numbers in {len(sizes)} tensors, that of the state to "
                f"load {old['numel']} in {len(old['params'])}: the state of another model?"
            )
        settled = math.ceil(math.log(1e-17) / math.log(old["beta1"])) if old["beta1"] > 0 else 1
        steps = settled if old["momentum"].count_nonzero() else 0
        pieces = zip(
            old["params"], members, old["hess"].split(sizes), old["momentum"].split(sizes), strict=True
        )
        for i, param, hess, momentum in pieces:
            states[i] = {
                "step": steps,
                "momentum_weight": 1.0 if steps else 0.0,
                "hess": hess.view(param.shape),
                "momentum": momentum.view(param.shape),
            }
        groups.append({k: v for k, v in old.items() if k not in ("numel", "hess", "momentum", "mc_samples")})
    return {"state": states, "param_groups": groups}
