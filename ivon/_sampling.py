# pyright: reportPrivateImportUsage=false
"""A posterior draw: the noise, the way from the mean to the draw, and back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors

from ivon import _captured, _fused, _kernels, _native, _shards
from ivon._fsdp1 import Place
from ivon._noise import seed_of
from ivon._operations import LISTS
from ivon._parts import Parts
from ivon._state import Group, State, States, all_fit, has_residuals, state_dtype, states_of_groups
from ivon._stretches import Stretch, is_dense, stretches


@dataclass
class Block:
    """A posterior draw for parameters of one group, device and dtype.

    `kept` is the only memory that a draw takes: 4 bytes for each parameter that the process holds. It gets
    the standard normal noise, stretch by stretch, then has the parameters as they were while these are at the
    draw, and afterwards the noise theta - m. That of 16-bit parameters is made a second time: their theta is
    rounded, by far more than the noise of a narrow posterior, and Eq. 3 holds for the noise that was drawn.
    With `drawn` it is made by kernels of a GPU where it is used, and that memory is given back with the mean.
    """

    group: Group
    params: list[Tensor]
    states: list[State]
    flat: Tensor | None = None  # the memory of `kept`
    at_mean: bool = False  # it was not drawn: the noise in `kept` is zero
    drawn: _fused.Draw | None = None
    source: _shards.Noise | _captured.Noise | None = None  # of the noise in `kept`, as long as it is needed
    # What is at the draw, whatever interrupts us.
    _trip: _native.Trip | _fused.Trip | None = None
    _moved: list[Stretch] = field(default_factory=list)

    @cached_property
    def kept(self) -> list[Tensor]:
        """Shaped and laid out like the local parts of the parameters at the draw, in the dtype of states.

        A trip does not ask for it: views take as long as all the rest for a small tensor.
        """
        assert self.flat is not None
        alike = self.local_params() if self._trip is None else self.of_states("hess")
        if self.drawn is not None:
            return self.drawn.views(self.flat, alike)
        views = list(_unflatten_dense_tensors(self.flat, alike))
        for i, tensor in enumerate(alike):
            if not tensor.is_contiguous() and is_dense(tensor):
                views[i] = views[i].as_strided(tensor.shape, tensor.stride())
        return views

    def noise(self) -> list[Tensor] | _native.Trip:
        """The noise of a draw that is over: `kept`, or what _native.py has made and left."""
        return self._trip if isinstance(self._trip, _native.Trip) else self.kept

    def local_params(self) -> list[Tensor]:
        """What this process holds of the parameters."""
        return _shards.locals_of(self.params)

    def of_states(self, name: str) -> list[Tensor]:
        """What this process holds of one entry of the states."""
        return _shards.locals_of([state[name] for state in self.states])

    def part(self, chosen: list[int]) -> "Block":
        """The block of some of the parameters."""
        if len(chosen) == len(self.params):
            return self
        params, states = [self.params[i] for i in chosen], [self.states[i] for i in chosen]
        part = Block(self.group, params, states, at_mean=self.at_mean)
        if self.drawn is not None:
            part.drawn = self.drawn.part(chosen)
        else:
            part.kept = [self.kept[i] for i in chosen]
        return part

    def displace(self) -> None:
        """Move the parameters, in place, from the mean to the draw; once."""
        assert self.flat is not None
        params, hess, numbers = self.local_params(), self.of_states("hess"), self.numbers()
        if self.drawn is not None:
            self._trip = trip = _fused.Trip(params, self.flat, self.drawn)
            trip.go(hess, **numbers)
            return
        source, self.source = self.source, None
        assert source is not None
        if isinstance(source, _shards.Noise) and _native.usable(params, hess):
            whole = source.is_of_whole_parameters()
            if not whole:
                source.reach(self.kept)
            self._trip = trip = _native.Trip(params, self.flat)
            trip.go(hess, seed_of(source.key), made_here=whole, **numbers)
            return
        roles = [params, self.kept]
        if has_residuals(self.states):
            self.source = source.again()
            roles.append(self.of_states("residual"))
        for stretch in stretches([*roles, hess]):
            source.reach(stretch.tensors[1])
            o, (means, kept, *residuals, hessians) = stretch.operations, stretch.operands()
            theta = _kernels.draw(o, hessians, means, kept, *residuals, **numbers)
            o.copy_(kept, means)
            stretch.put_back(1, kept)
            self._moved.append(Stretch(stretch.tensors[:2], o))
            stretch.write(0, theta)

    def restore(self) -> None:
        """Move the parameters back, to the bits that they had."""
        if self._goes_back():
            return
        while self._moved:
            params, kept = self._moved[-1].tensors
            torch._foreach_copy_(params, kept)
            self._moved.pop()

    def restore_and_keep_noise(self) -> None:
        """The same, and `kept` has the noise from then on, unless it can be made again."""
        if self.drawn is not None:
            self.restore()
            self.flat, self.kept = None, []
            return
        if has_residuals(self.states):
            self.restore()
            self._make_noise_again()
            return
        if self._goes_back():
            return
        while self._moved:
            stretch = self._moved[-1]
            o, (params, kept) = stretch.operations, stretch.operands()
            noise = _kernels.noise_seen(o, params, kept)
            torch._foreach_copy_(stretch.tensors[0], stretch.tensors[1])
            self._moved.pop()
            o.copy_(kept, noise)
            stretch.put_back(1, kept)

    def is_as_drawn(self) -> bool:
        """Whether the parameters have not been moved, converted nor resized since."""
        return all_fit(self.states, self.params) if self._trip is None else self._trip.is_open()

    def _goes_back(self) -> bool:
        """Whether there was a trip; the way back of parameters converted since is another."""
        if self._trip is None:
            return False
        if self._trip.is_open():
            self._trip.back()
            return True
        if self._trip.is_away() and not self._moved:
            self._moved.append(Stretch([self.local_params(), self.kept], LISTS))
        self._trip = None
        return False

    def _make_noise_again(self) -> None:
        source, self.source = self.source, None
        assert source is not None
        for stretch in stretches([self.kept, self.of_states("hess")]):
            source.reach(stretch.tensors[0])
            o, (kept, hess) = stretch.operations, stretch.operands()
            o.copy_(kept, _kernels.noise(o, hess, kept, **self.numbers()))
            stretch.put_back(0, kept)

    def numbers(self) -> dict[str, float]:
        """The settings that noise depends on."""
        return {"noise_scale": self.group["ess"] ** -0.5, "weight_decay": self.group["weight_decay"]}


def new_blocks(
    groups: list[Group], states: States, key: str | None, parts: Parts, *, fused: bool
) -> list[Block]:
    """A draw for all trainable parameters; nothing has moved yet. `fused`: where that is possible.

    Without `key`, for a CUDA graph, it is another one each time.
    """
    names, flats, made = parts.names(groups), parts.flats(groups), Counter[str]()
    blocks: list[Block] = []
    for group, params, found in states_of_groups(groups, states):
        for name, chosen in _by_name(params, names):
            own = [params[i] for i in chosen] if names else params
            places = [flats.place(param) for param in own] if flats else None
            block_key = None if key is None else f"{key} {name}block {made[name]}"
            own_states = [found[i] for i in chosen] if names else found
            blocks.append(new_block(group, own, own_states, block_key, places, fused=fused))
            made[name] += 1
    return blocks


def new_block(
    group: Group,
    params: list[Tensor],
    states: list[State],
    key: str | None,
    places: list[Place | None] | None = None,
    *,
    fused: bool = False,
) -> Block:
    """A draw for parameters of one group, device and dtype; nothing has moved yet.

    It is a function of `key`; without one, for a CUDA graph, it is another one each time. `places` are those
    of parameters of FSDP1.
    """
    if fused and key is not None and _fused.usable(params, states):
        drawn = _fused.new_draw(params, key if places is None else f"{key} at {places}")
        return Block(group, params, states, drawn.memory(params[0].device), drawn=drawn)
    size = sum(map(Tensor.numel, _shards.locals_of(params)))
    flat = torch.empty(size, dtype=state_dtype(params[0]), device=params[0].device)
    source = _captured.Noise(flat) if key is None else _shards.Noise(flat, params, key, places)
    return Block(group, params, states, flat, source=source)


def _by_name(params: list[Tensor], names: dict[int, str]) -> Iterable[tuple[str, Sequence[int]]]:
    """The numbers of the parameters of each part, and the part's name in a key."""
    if not names:
        return [("", range(len(params)))]
    found: dict[str, list[int]] = {}
    for i, param in enumerate(params):
        name = names.get(id(param))
        found.setdefault(f"{name} " if name else "", []).append(i)
    return found.items()
