"""MC-dropout (Gal & Ghahramani, 2016): dropout stays on, and every random mask is a predictive draw."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from baselines.draws import keyed_generator
from baselines.method import Loss


class Masks:
    """Element-wise dropout behind named modules of a network, on inside `on` and nowhere else.

        masks = Masks(model, ["features.2", "classifier.0"], rate=0.05)
        with masks.on(generator):
            criterion(model(inputs), targets).backward()
        optimizer.step()

    A prediction is averaged over a few `with masks.on(generator): model(inputs).softmax(-1)`; without the
    context the network predicts with all its units. `model.train()` and `.eval()` do not matter.

    Where a module hands on several tensors, in tuples, lists or dicts, each but those of integers gets a
    mask of its own: an LSTM's outputs and both of its last states, as any of them may be what is read.

    A network that is to be compiled gets its masks before, and `torch._dynamo.config` has
    `skip_nnmodule_hook_guards = False`: otherwise what was compiled for another network of its class, without
    masks, is run in its place.
    """

    def __init__(self, model: nn.Module, sites: Sequence[str], rate: float) -> None:
        modules = dict(model.named_modules())
        unknown = [site for site in sites if site not in modules]
        twice = sorted({site for site in sites if sites.count(site) > 1})
        if twice:
            raise ValueError(f"dropout sites of {type(model).__name__}: {twice} more than once")
        if unknown or not sites:
            raise ValueError(
                f"dropout sites of {type(model).__name__}: {unknown or 'none'}; "
                f"needed are names of its modules, such as {list(modules)[-1]!r}"
            )
        if not 0 < rate < 1:
            raise ValueError(f"dropout rate must be between 0 and 1, got {rate}")
        self.sites, self.rate, self.active = list(sites), rate, False
        self._model = model
        self._handles = [modules[site].register_forward_hook(self._drop) for site in sites]

    @property
    def device(self) -> torch.device:
        """Where the network is now: it may have moved since it got its masks."""
        return next(self._model.parameters()).device

    def _drop(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.active:
            return output
        parts, structure = tree_flatten(output)
        if not any(_takes_mask(part) for part in parts):
            site = next(site for site in self.sites if self._model.get_submodule(site) is module)
            raise TypeError(
                f"dropout site {site!r} returns {type(output).__name__}: needed are tensors of real or "
                f"complex numbers, alone or in tuples, lists or dicts"
            )
        masked = [F.dropout(part, self.rate) if _takes_mask(part) else part for part in parts]
        return tree_unflatten(masked, structure)

    @contextmanager
    def on(self, generator: torch.Generator) -> Iterator[None]:
        """Every forward pass inside has new masks, from `generator`, which lives on the network's device."""
        if generator.device.type != self.device.type:
            raise ValueError(f"generator is on {generator.device}, the network on {self.device}")
        self.active = True
        try:
            with global_stream(generator):
                yield
        finally:
            self.active = False

    def remove(self) -> None:
        """Take the masks away from the network."""
        for handle in self._handles:
            handle.remove()


def _takes_mask(part: Any) -> bool:
    return isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex())


@contextmanager
def global_stream(generator: torch.Generator) -> Iterator[None]:
    """Inside, torch's global stream on that device is the one of `generator`; outside it has not moved.

    `F.dropout` knows only the global stream, and it alone is fused and compiled on a GPU.
    """
    own = torch.default_generator
    if generator.device.type == "cuda":
        own = torch.cuda.default_generators[generator.device.index or 0]
    before = own.get_state()
    own.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(own.get_state())
        own.set_state(before)


class MCDropout:
    """An optimizer and `Masks` behind the verbs of a method."""

    reduces_gradients = False

    def __init__(self, masks: Masks, optimizer: torch.optim.Optimizer, *, seed: int) -> None:
        self.masks, self.optimizer = masks, optimizer
        self._seed, self._steps = seed, 0

    def step(self, loss: Loss) -> Tensor:
        loss.check_undivided("MC-dropout")
        self.optimizer.zero_grad(set_to_none=True)
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if ranks else 0  # other examples get other masks
        generator = keyed_generator(self.masks.device, self._seed, "mc_dropout", self._steps, rank)
        with self.masks.on(generator):
            value = loss()
            value.backward()
        self.optimizer.step()
        self._steps += 1
        return value.detach()

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        return nullcontext() if k == 0 else self.masks.on(generator)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "seed": self._seed, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self._seed, self._steps = state["seed"], state["steps"]
