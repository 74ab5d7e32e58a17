"""Who holds what in a process group: parts that differ have noise of their own, copies of a part the same.

By itself a plain tensor does not say whether it is the same on every rank (DistributedDataParallel), a stage
of a pipeline, or a slice. So ranks compare what they hold at the first training draw, and once more after the
first step: copies stay the same, weights that merely began alike do not. Numbers of parameters whose places
in a whole are known (DTensor, FSDP1) belong to these places; only ranks with the same places are compared.
"""

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from ivon._exchange import in_group, told
from ivon._fsdp1 import Flats
from ivon._noise import NoiseStream
from ivon._state import Group, States
from ivon._traits import Trait, digest, is_finite, is_uniform, trait

PART = "part"  # in a parameter group, where it is given
_LOOKS = 3  # after steps, until one has moved something
_TESTS = 8  # steps with sync, until the gradients of one tell something
_REMEDY = (
    "give `part` to the optimizer or to single parameter groups: parameters with the same part are copies "
    "with the same noise, e.g. part=f'stage {stage}'"
)
DRIFTED = (
    "these ranks began with the same parameters, but have different gradients: from now on they are taken "
    "for parts of a model, or models of their own, and draw apart. If they are copies, average their "
    f"gradients (DistributedDataParallel, or sync=True); if not, {_REMEDY}"
)
APART = (
    "sync=True is for ranks that have the whole parameters each, and begin with the same values; these ranks "
    "hold different ones, which draw apart with sync=False"
)


AVERAGED = (
    "ranks have drawn apart (sync=True), but have the same gradients: something averages them before step(), "
    "as DistributedDataParallel does in backward(), and the Hessian would be too small by the number of "
    "ranks. Either sync=False, for gradients that are averaged, or backward() within no_sync()"
)


def check_part(part: Any) -> None:
    """Raise ValueError unless it can be the name of a part; None is for none."""
    if part is not None and (isinstance(part, bool) or not isinstance(part, int | str) or part == ""):
        raise ValueError(f"part must be a string that is not empty, or an integer; got {part!r}")


class Parts:
    """What this rank knows of the parts; see above."""

    def __init__(self, seed_is_given: bool = False) -> None:
        self.seed_is_given = seed_is_given
        self.is_one = True  # whether all ranks hold copies of all parameters whose `part` is not given
        self.has_copies = False  # whether, else, some ranks hold copies of some; known to all ranks
        self._ranks: list[list[int]] = []  # that hold copies, for each of these parameters
        self._size = 1
        self._known = False
        self._stepped = False
        self._looks_left = _LOOKS
        self._tests_left = _TESTS
        self._flats: Flats | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_flats": None}  # a copy has other parameters

    def stepped(self) -> None:
        """Note that a step was made, or skipped."""
        self._stepped = True

    def flats(self, groups: list[Group]) -> Flats:
        """The flat parameters of FSDP1, for which is searched once."""
        if self._flats is None:
            self._flats = Flats([param for group in groups for param in group["params"]])
        return self._flats

    def names(self, groups: list[Group]) -> dict[int, str]:
        """The part that parameters belong to, by their ids, unless that is all ranks'."""
        found = {id(p): f"part {g[PART]}" for g in groups if _is_given(g) for p in g["params"]}
        if not self.is_one:
            pairs = zip(_open(groups), self._ranks, strict=True)
            found |= {id(param): f"of ranks {ranks}" for param, ranks in pairs if len(ranks) < self._size}
        return found

    def learn(self, groups: list[Group], states: States, stream: NoiseStream, sync: bool) -> None:
        """Compare with the other ranks, before a training draw, if that is due; and take over rank 0's seed.

        RuntimeError if it cannot be told which weights are copies, or if ranks with `sync` differ.
        """
        if (self._known and not (self._stepped and self._looks_left)) or not in_group():
            return
        given = [_is_given(group) for group in groups]
        if sync and any(given):
            raise RuntimeError(APART)
        if all(given) and self.seed_is_given:
            return
        if self._known:
            self._look_again(groups, states)
            return
        self._look(groups, stream)
        if sync and not self.is_one:
            raise RuntimeError(APART)
        self._known = True
        if sync:
            self._looks_left = 0

    def refuse_averaged(self, grads: list[Tensor]) -> None:
        """RuntimeError if ranks have the same gradients at draws of their own, at one step that tells."""
        if not self._tests_left or not in_group():
            return
        self._tests_left -= 1
        tells = any(not is_uniform(grad) for grad in grads) and all(map(is_finite, grads))
        table = told("first step with sync=True", [tells, digest([*grads])])
        if all(tells for tells, _ in table):
            if _is_repeated(found for _, found in table):
                raise RuntimeError(AVERAGED)
            self._tests_left = 0

    def _look(self, groups: list[Group], stream: NoiseStream) -> None:
        self._flats = None  # the model may have been wrapped after a test draw
        params = _open(groups)
        given = sorted({str(group[PART]) for group in groups if _is_given(group)})
        mine = {"seed": stream.seed, "given": given, **self._summary(groups, params, list(params))}
        table = told("first training draw", mine)
        stream.seed, self._size = table[0]["seed"], len(table)
        self.is_one = _is_one(table)
        self._ranks = [list(range(self._size))] * len(params)
        if self.is_one:
            alike = bool(table[0]["count"]) and _is_repeated(row["places"] for row in table)
        else:
            rows = _read(told("first training draw, one by one", self._traits(groups, params, list(params))))
            _check_order(rows)
            alike = _is_repeated((len(row), k, str(t)) for row in rows for k, t in enumerate(row))
            similar = [rank for rank, row in enumerate(rows) if len(row) == len(params)]
            self._ranks = [_copies(rows, k, similar) for k in range(len(params))]
        self.has_copies = (alike and not self.is_one) or _is_repeated(
            name for r in table for name in r["given"]
        )
        if not alike:
            self._looks_left = 0

    def _look_again(self, groups: list[Group], states: States) -> None:
        """The momentum tells copies, which have the same gradients, from weights that only began alike."""
        self._stepped = False
        params = _open(groups)
        momenta = [states.get(param, {}).get("momentum") for param in params]
        traits = self._traits(groups, params, momenta)
        mine = {"moved": any(t.size for t in traits), **self._summary(groups, params, momenta)}
        table = told("first training draw after a step", mine)
        self._looks_left -= 1
        if not all(row["moved"] for row in table):
            return
        self._looks_left = 0
        if self.is_one and _is_one(table):
            return
        rows = _read(told("first training draw after a step, one by one", traits))
        before, self._ranks = self._ranks, [_copies(rows, k, ranks) for k, ranks in enumerate(self._ranks)]
        if self.is_one and self._ranks != before:
            self.is_one = False
            warnings.warn(DRIFTED, stacklevel=4)

    def _summary(
        self, groups: list[Group], params: list[Tensor], tensors: list[Tensor | None]
    ) -> dict[str, Any]:
        """Of what this rank holds, in a few words: all ranks' are compared."""
        bare = [trait(param, self.flats(groups).place(param), None) for param in params]
        whole = [t for t, b in zip(tensors, bare, strict=True) if not b.place]
        placed = [t for t, b in zip(tensors, bare, strict=True) if b.place]
        return {
            "count": len(params),
            "shapes": _hash([(b.shape, not b.place) for b in bare]),
            "whole": digest(whole),
            "places": _hash([b.place for b in bare]),
            "placed": digest(placed),
        }

    def _traits(self, groups: list[Group], params: list[Tensor], tensors: list[Tensor | None]) -> list[Trait]:
        flats = self.flats(groups)
        return [trait(param, flats.place(param), t) for param, t in zip(params, tensors, strict=True)]


def _is_given(group: Group) -> bool:
    return group.get(PART) is not None


def _open(groups: list[Group]) -> list[Tensor]:
    """The parameters whose part is not given."""
    return [param for group in groups if not _is_given(group) for param in group["params"]]


def _hash(thing: object) -> str:
    return hashlib.blake2b(repr(thing).encode(), digest_size=16).hexdigest()


def _read(rows: list[Any]) -> list[list[Trait]]:
    return [[Trait(*of) for of in row] for row in rows]


def _is_repeated(things: Iterable[Hashable]) -> bool:
    return any(count > 1 for count in Counter(things).values())


def _is_one(table: list[dict[str, Any]]) -> bool:
    """Whether ranks hold the same parameters, and those with the same places the same values."""
    places = {row["places"]: row["placed"] for row in table}
    return all(
        row["shapes"] == table[0]["shapes"]
        and row["whole"] == table[0]["whole"]
        and row["placed"] == places[row["places"]]
        for row in table
    )


def _copies(rows: list[list[Trait]], k: int, among: list[int]) -> list[int]:
    """The ranks, of those in `among`, that hold this rank's part of parameter k, or another place of it.

    Several parts may be cut up at the same places: each place numbers them in the order of ranks.
    """
    kinds: dict[Hashable, list[Trait]] = defaultdict(list)
    number: dict[int, Hashable] = {}
    for rank in among:
        own = rows[rank][k]
        known = kinds[own.place, *own.shape]
        found = next((i for i, kind in enumerate(known) if kind.is_like(own)), len(known))
        if found == len(known):
            known.append(own)
        number[rank] = (found, own.place == "", *own.shape)
    return [rank for rank in among if number[rank] == number[dist.get_rank()]]


def _check_order(rows: list[list[Trait]]) -> None:
    """RuntimeError if ranks hold the same weights at different numbers: tied ones of a pipeline, perhaps."""
    held: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, row in enumerate(rows):
        for k, of in enumerate(row):
            if of.tells() and not of.place:
                held[str(of)][rank].append(k)
    for ranks in held.values():
        numbers = {(len(rows[rank]), *ks): rank for rank, ks in ranks.items()}
        if len(numbers) > 1:
            ((_, one, *_), rank), ((_, other, *_), other_rank) = list(numbers.items())[:2]
            raise RuntimeError(
                f"parameter {one} of rank {rank} and parameter {other} of rank {other_rank} have the same "
                f"values, and others differ: are they copies of one weight, or two? {_REMEDY}"
            )
