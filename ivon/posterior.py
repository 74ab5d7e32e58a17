"""The learned posterior as an object of its own, by parameter name: saved, drawn from, compared."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ivon import _noise, _placing, _posterior_file
from ivon._shards import is_sharded
from ivon._state import after_decay, fits, state_dtype, trainable
from ivon.wrappers import find_ivon


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """A Gaussian with diagonal covariance over the trainable parameters of a model.

        posterior = ivon.Posterior.of(model, optimizer)
        posterior.save("posterior.safetensors")

        model = Net()  # elsewhere; buffers and frozen parameters are not in the posterior
        posterior = ivon.Posterior.load("posterior.safetensors")
        log_probs = ivon.predict(model, inputs, posterior=posterior)

    All by parameter name, in float32, for float64 parameters in float64:
        mean: m.
        precision: 1 / sigma^2 = ess (h + weight_decay), the inverse of the variance.
        prior_precision: ess * weight_decay, one number per parameter; the prior is N(0, 1 / prior_precision).
        fixed: names of the parameters that are constants to this posterior, frozen ones for example. A
            model that has parameters beyond those in `mean` and `fixed` is refused.

    Draws are numbered k = 0, 1, ... The k-th is a function of the posterior, the seed and k: not of the
    device, the rank, or what was drawn before. (Processors of different kinds may differ in the last bits.)
    """

    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    prior_precision: dict[str, float]
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.mean:
            raise ValueError("mean must have a parameter at least, got none")
        for what in ("precision", "prior_precision"):
            if (names := getattr(self, what).keys()) != self.mean.keys():
                name = min(names ^ self.mean.keys())
                raise ValueError(f"{what} and mean must name the same parameters; {name!r} is in one of them")
        for name, mean in self.mean.items():
            precision = self.precision[name]
            if precision.shape != mean.shape or precision.dtype != mean.dtype:
                raise ValueError(f"precision of {name!r} must be of the shape and dtype of its mean")
            if not bool(((precision > 0) & (precision < torch.inf)).all()):
                raise ValueError(f"precision of {name!r} must be finite and > 0 everywhere")
            if not 0 <= self.prior_precision[name] < torch.inf:
                raise ValueError(f"prior_precision of {name!r} must be finite and >= 0")

    def __repr__(self) -> str:
        """Size, place and widths; the numbers themselves would be megabytes."""
        kinds = dict.fromkeys(f"{mean.dtype} on {mean.device}" for mean in self.mean.values())
        priors = list(self.prior_precision.values())
        parts = [
            size_in_words(self),
            " and ".join(kinds).replace("torch.", ""),
            *([f"sigma {_span(sigmas)}"] if (sigmas := self._extreme_sigmas()) else []),
            f"prior precision {_span(priors)}",
            *([f"{len(self.fixed)} fixed"] if self.fixed else []),
        ]
        return f"Posterior({', '.join(parts)})"

    def _extreme_sigmas(self) -> list[float]:
        extremes = [torch.aminmax(values) for values in self.precision.values() if values.numel()]
        return [float(value) ** -0.5 for both in extremes for value in both]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, optimizer: Any) -> "Posterior":
        """What an IVON, or the one in a wrapper such as accelerate's, has learned of a model; a copy.

        To be called at any time but within `sampled_params`. Sharded parameters (FSDP2) are gathered, a
        collective call; every rank then has the whole posterior.
        """
        ivon = find_ivon(optimizer)
        ivon._forbid_within("Posterior.of()")  # there the parameters are a draw and not the mean
        groups = {id(param): group for group in ivon.param_groups for param in trainable(group)}
        means: dict[str, Tensor] = {}
        precisions: dict[str, Tensor] = {}
        priors: dict[str, float] = {}
        fixed: list[str] = []
        for name, param in _placing.named_parameters(model).items():
            group = groups.get(id(param))
            if group is None:
                fixed.append(name)
                continue
            mean = _whole(param).detach().to(state_dtype(param), copy=True)
            state = ivon.state.get(param, {})  # not made here: asking must not change what a checkpoint has
            hess = torch.full_like(mean, group["hess_init"])
            if "hess" in state:
                hess = after_decay(hess.copy_(_whole(state["hess"])), group)
            if "residual" in state and fits(state, param):  # else the model was converted since
                mean += _whole(state["residual"])
            means[name], precisions[name] = mean, (hess + group["weight_decay"]) * group["ess"]
            priors[name] = float(group["ess"] * group["weight_decay"])
        if not means:
            raise ValueError("optimizer must have trainable parameters of the model, got one that has none")
        return cls(mean=means, precision=precisions, prior_precision=priors, fixed=tuple(fixed))

    def draw(self, k: int, seed: int = 0) -> dict[str, Tensor]:
        """The k-th draw m + sigma * eps by parameter name, on the device and in the dtype of `mean`.

        For `torch.func.functional_call`; a model with 16-bit parameters wants it converted.
        """
        return {name: values[0] for name, values in self.draws([k], seed).items()}

    @torch.no_grad()
    def draws(self, ks: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
        """Several draws, stacked along a new first dimension as `torch.vmap` wants them."""
        keys = [draw_key(k, seed) for k in ks]
        stacked: dict[str, Tensor] = {}
        for dtype, names in self._by_dtype().items():
            means = [self.mean[name] for name in names]
            sizes = [mean.numel() for mean in means]
            # The noise of a draw in one piece, and on the CPU, whose numbers are the same for every device.
            noise = torch.empty(len(keys), sum(sizes), dtype=dtype, device="cpu")
            for row, key in zip(noise, keys, strict=True):
                _noise.fill(row, f"{key} {dtype}", start=0)
            pieces = noise.to(means[0].device).split(sizes, dim=1)
            for name, mean, piece in zip(names, means, pieces, strict=True):
                eps = piece.view(len(keys), *mean.shape).to(mean.device)
                stacked[name] = eps.div_(self.precision[name].sqrt()).add_(mean)
        return stacked

    @contextmanager
    def sampled(self, model: nn.Module, k: int, seed: int = 0) -> Iterator[None]:
        """In the context the model's parameters are the k-th draw; then, bit for bit, what they were.

        Raises ValueError with the name of the first parameter that the model and posterior do not share.
        """
        params = _placing.matching(model, self.mean, self.fixed)
        values = self.draw(k, seed)
        with _placing.restored(params):
            _placing.write(params, values)
            yield

    def apply_mean(self, model: nn.Module) -> None:
        """Set the model's parameters to the mean; ValueError as in `sampled`."""
        _placing.write(_placing.matching(model, self.mean, self.fixed), self.mean)

    def prior(self) -> "Posterior":
        """N(0, 1 / (ess * weight_decay)) over the same parameters; ValueError where weight_decay is 0."""
        for name, value in self.prior_precision.items():
            if value == 0:
                raise ValueError(f"weight_decay of {name!r} must be > 0 for a proper prior, got 0")
        return Posterior(
            mean={name: torch.zeros_like(mean) for name, mean in self.mean.items()},
            precision={name: torch.full_like(m, self.prior_precision[name]) for name, m in self.mean.items()},
            prior_precision=self.prior_precision,
            fixed=self.fixed,
        )

    @torch.no_grad()
    def kl(self, other: "Posterior") -> float:
        """KL(self || other) in nats; that to the prior is `posterior.kl(posterior.prior())`.

        With p and m' the other's precision and mean and r = p / precision it is half the sum, in float64, of
        r - 1 - ln r + p (m - m')^2.
        """
        check_alike(self, other)
        total = 0.0
        for name, mean in self.mean.items():
            own, theirs = (p.precision[name].to(mean.device, torch.float64) for p in (self, other))
            shift = mean.double() - other.mean[name].to(mean.device, torch.float64)
            surplus = (theirs - own) / own  # r - 1; two posteriors of one training may differ by little
            total += 0.5 * (surplus - surplus.log1p() + theirs * shift**2).sum().item()
        return total

    def to(self, device: torch.device | str) -> "Posterior":
        """The same posterior on a device."""
        mean, precision = ({n: t.to(device) for n, t in ts.items()} for ts in (self.mean, self.precision))
        return Posterior(
            mean=mean, precision=precision, prior_precision=self.prior_precision, fixed=self.fixed
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors, named `mean.<name>` and so on, for `from_state_dict`."""
        state: dict[str, Tensor] = {}
        for name, mean in self.mean.items():
            state[f"mean.{name}"] = mean
            state[f"precision.{name}"] = self.precision[name]
            number = torch.tensor(self.prior_precision[name], dtype=torch.float64, device="cpu")
            state[f"prior_precision.{name}"] = number
        return state | {f"fixed.{name}": torch.empty(0, device="cpu") for name in self.fixed}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "Posterior":
        """The posterior that gave `state_dict()`; ValueError if something else did."""
        parts: dict[str, dict[str, Tensor]] = {
            p: {} for p in ("mean", "precision", "prior_precision", "fixed")
        }
        for key, tensor in state.items():
            part, _, name = str(key).partition(".")
            if part not in parts or not name:
                raise ValueError(
                    f"unexpected entry {key!r}, expected {', '.join(f'{p}.<name>' for p in parts)}"
                )
            parts[part][name] = tensor
        return cls(
            mean=parts["mean"],
            precision=parts["precision"],
            prior_precision={name: float(tensor) for name, tensor in parts["prior_precision"].items()},
            fixed=tuple(parts["fixed"]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, at once or not at all: `*.safetensors`, or any other name in PyTorch's own format."""
        _posterior_file.write(self.state_dict(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Posterior":
        """Read what `save` wrote, onto the CPU, and run no code from it. ValueError if it is no posterior."""
        try:
            return cls.from_state_dict(_posterior_file.read(path))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is not a posterior saved by ivon: {error}") from error

    def _by_dtype(self) -> dict[torch.dtype, list[str]]:
        """The names, in an order that saving and loading cannot change."""
        names: dict[torch.dtype, list[str]] = defaultdict(list)
        for name in sorted(self.mean):
            names[self.mean[name].dtype].append(name)
        return names


def size_in_words(posterior: Posterior) -> str:
    """How many parameters it has in how many tensors."""
    count, tensors = sum(mean.numel() for mean in posterior.mean.values()), len(posterior.mean)
    return f"{count:,} parameters in {tensors} tensor{'s' if tensors > 1 else ''}"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def draw_key(k: int, seed: int) -> str:
    """What the noise of a draw is a function of."""
    if not _is_integer(k) or k < 0:
        raise ValueError(f"k must be an integer >= 0, got {k!r}")
    if not _is_integer(seed):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    return f"posterior seed {seed} draw {k}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_alike(one: Posterior, other: Posterior) -> None:
    """Raise ValueError unless two posteriors are of one model, with the first parameter that differs."""
    for name in (*one.mean, *other.mean):
        shapes = [tuple(p.mean[name].shape) if name in p.mean else None for p in (one, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the posteriors must be of one model: {name!r} has shapes {shapes[0]}, {shapes[1]}"
            )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
