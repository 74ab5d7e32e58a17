"""A mixture of posteriors, each from a training of its own."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

from ivon.posterior import Posterior, check_alike, draw_key, size_in_words

_SHOWN = 8  # weights in a repr


class Mixture:
    """Posteriors of one architecture as the components of a mixture (Multi-IVON is one of five).

        mixture = ivon.Mixture([ivon.Posterior.load(path) for path in paths])
        log_probs = ivon.predict(model, inputs, n_samples=64, posterior=mixture)

    `weights` are positive and proportional to the probabilities of the members; equal if they are not given.
    Each draw is a draw of one member. Which one is not left to chance: of the first n draws a member has its
    share n * weight, rounded up or down, and with equal weights the members take turns.
    """

    def __init__(self, members: Sequence[Posterior], weights: Sequence[float] | None = None) -> None:
        self.members = tuple(members)
        if not self.members:
            raise ValueError("members must be posteriors, one at least; got none")
        given = [1.0] * len(self.members) if weights is None else list(weights)
        if len(given) != len(self.members) or not all(0 < w < math.inf for w in given):
            raise ValueError(f"weights must be {len(self.members)} finite numbers > 0, got {weights!r}")
        for member in self.members[1:]:
            check_alike(self.members[0], member)
        # Exact, as rounding would decide between members whose turn it is equally.
        exact = [Fraction(float(w)) for w in given]
        self._given = given
        self._shares = [w / sum(exact) for w in exact]
        self.weights = tuple(float(share) for share in self._shares)
        self._counts = [0] * len(self.members)
        self._member_of: list[int] = []  # of the draws up to the largest k so far

    def __repr__(self) -> str:
        """Size and weights."""
        equal = len(set(self._shares)) == 1
        shown = ", ".join(f"{weight:.3g}" for weight in self.weights[:_SHOWN])
        more = ", ..." if len(self.weights) > _SHOWN else ""
        weights = "equal weights" if equal else f"weights {shown}{more}"
        return f"Mixture({len(self.members)} members of {size_in_words(self.members[0])}, {weights})"

    def member_of(self, k: int) -> int:
        """The number of the member that has the k-th draw."""
        draw_key(k, 0)
        while len(self._member_of) <= k:
            self._member_of.append(self._next_member())
        return self._member_of[k]

    def draw(self, k: int, seed: int = 0) -> dict[str, Tensor]:
        """The k-th draw, `members[member_of(k)].draw(k, seed)`."""
        return self.members[self.member_of(k)].draw(k, seed)

    def draws(self, ks: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
        """Several draws, stacked along a new first dimension as `torch.vmap` wants them."""
        each = [self.draw(k, seed) for k in ks]
        return {name: torch.stack([draw[name] for draw in each]) for name in self.members[0].mean}

    @contextmanager
    def sampled(self, model: nn.Module, k: int, seed: int = 0) -> Iterator[None]:
        """In the context the model's parameters are the k-th draw; see `Posterior.sampled`."""
        with self.members[self.member_of(k)].sampled(model, k, seed):
            yield

    def to(self, device: torch.device | str) -> "Mixture":
        """The same mixture on a device."""
        return Mixture([member.to(device) for member in self.members], self._given)

    def _next_member(self) -> int:
        """The quota method of Balinski and Young (1975) for seats in a parliament that grows seat by seat."""
        drawn = sum(self._counts) + 1
        below = [i for i, share in enumerate(self._shares) if self._counts[i] < drawn * share]
        chosen = max(below, key=lambda i: (self._shares[i] / (self._counts[i] + 1), -i))
        self._counts[chosen] += 1
        return chosen
