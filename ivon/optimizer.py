"""The IVON optimizer: a Gaussian posterior over the weights, learned at the price of Adam."""

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable, without a second more for our import
from torch.optim import Optimizer

from ivon import _captured, _checkpoint, _distributed, _loss_scale, _sampling
from ivon._accumulate import Draws, check_agree, drop_squares
from ivon._apart import Apart
from ivon._joined import blocks_at_mean
from ivon._noise import NoiseStream
from ivon._settings import check_group, check_optimizer, check_reduction, check_weight, plain
from ivon._shards import is_sharded
from ivon._state import DECAY, Group, alike, follow_decay, states_of, states_of_groups, trainable
from ivon._update import Update

NO_GRADIENTS = (
    "no parameter has a gradient from the draws of this step: compute it within sampled_params(train=True). "
    "(A CUDA graph of forward and backward passes alone writes gradients where parameters no longer look for "
    "them; torch.cuda.make_graphed_callables does not, nor a graph that holds draw and step as well.)"
)


class IVON(Optimizer):
    """Improved Variational Online Newton (Shen et al., 2024, Algorithm 1).

    The parameters hold the mean m of a Gaussian posterior with standard deviations
    1 / sqrt(ess (h + weight_decay)). Gradients are taken at random draws from it:

        for _ in range(mc_samples):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
        optimizer.step()

    and predictions are averaged over draws: `with optimizer.sampled_params(): logits = model(inputs)`.

    After a training draw `p.grad` is what `step()` would use: the gradient of the draw, or the average over
    all draws since the last step. It is read late, so gradient clipping and `GradScaler.unscale_` work in
    between, and scale all draws. A gradient left from before is dropped when a training draw begins. One from
    outside of all draws, such as that of a probe at the mean, is to be zeroed before or within the draw; it
    is an error if the draw's own is added to it.

    Any number of draws may precede a step; they are averaged, and `mc_samples` tells only how many
    `step(closure)` makes by itself. Parameters without a gradient in all draws of a step are left alone. One
    that becomes trainable within a draw, by `requires_grad_()` or `add_param_group`, is at its mean in that
    draw: its gradient counts, and its Hessian stays what it is. In an average over draws, those at which a
    parameter was frozen count as a gradient of 0 and, again, the Hessian that there is.

    Arguments (all but the last six may differ between parameter groups):
        lr: learning rate alpha; about that of SGD when `rescale_lr` is on.
        ess: effective sample size lambda; the number of training examples.
        hess_init: h0, where the Hessian estimate starts.
        beta1, beta2: decay of the gradient momentum and of the Hessian estimate.
        weight_decay: delta; the prior precision is ess * weight_decay.
        clip_radius: xi, the largest entry of a step before the learning rate.
        mc_samples: draws per step of `step(closure)`.
        hess_approx: "price", the reparameterisation estimator of Eq. 3; "gradsq", ess times the squared
            gradient of each draw; or "ggn", the mean of the squared gradients of single examples, for which
            gradients are computed with `ivon.per_example_backward`.
        sync: in a process group, let every rank draw its own noise and average the estimates in `step()`,
            weighted by the weights of the draws; for models without DistributedDataParallel. If False, all
            ranks draw alike, which is right where gradients are already averaged over ranks; ranks that begin
            with the same parameters are taken for one model.
        debias: divide the momentum by 1 - beta1^t.
        rescale_lr: multiply the learning rate by hess_init + weight_decay.
        capturable: draws and steps may be captured in a CUDA graph, after a step outside of one. Noise in a
            graph comes from PyTorch's generator of the GPU, whose state then belongs into a checkpoint
            (`torch.cuda.get_rng_state`), and a graph keeps the settings of its capture; only the learning
            rate changes if it is a tensor on the GPU. Not with GradScaler or in a process group.
    """

    # GradScaler then calls step() also after an overflow, and the draws of the skipped step can be forgotten.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        ess: float,
        hess_init: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.99999,
        weight_decay: float = 1e-4,
        mc_samples: int = 1,
        hess_approx: str = "price",
        clip_radius: float = math.inf,
        sync: bool = False,
        debias: bool = True,
        rescale_lr: bool = True,
        capturable: bool = False,
    ) -> None:
        check_optimizer(mc_samples, hess_approx)
        defaults = {
            "lr": lr,
            "ess": ess,
            "hess_init": hess_init,
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "clip_radius": clip_radius,
        }
        check_group(defaults, capturable)
        self.capturable = capturable
        super().__init__(params, plain(defaults))
        self.mc_samples = mc_samples
        self.hess_approx = hess_approx
        self.sync = sync
        self.debias = debias
        self.rescale_lr = rescale_lr
        self._active: list[_sampling.Block] | None = None  # the draw that the parameters are at
        # That of a closure in step(), its weight, and the reduction of draws before the call.
        self._closure_draw: tuple[list[_sampling.Block], float, str | None] | None = None
        self._apart = Apart()
        self._draws = Draws()
        self._draws.gradients.remember(self._params())  # those that another optimizer has left
        self.seed(int(torch.randint(2**63 - 1, (), device="cpu")))
        _checkpoint.note_sampling(self.param_groups, self._stream, self._draws)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what is not given is the constructor's."""
        check_group({**self.defaults, **param_group}, self.capturable)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group |= plain(group)
        group[DECAY] = group["weight_decay"]
        for param in group["params"]:
            if not param.is_floating_point():
                self.param_groups.pop()
                raise ValueError(f"parameters must be of a real floating-point dtype, got {param.dtype}")
        if hasattr(self, "_draws"):  # not during construction
            self._draws.gradients.join(group["params"])

    def seed(self, seed: int) -> None:
        """Start the noise anew from `seed`. Without a call the seed comes from PyTorch's global generator."""
        self._stream = NoiseStream(operator.index(seed))
        self._seed_is_shared = False

    @contextmanager
    def sampled_params(
        self,
        train: bool = False,
        *,
        generator: torch.Generator | None = None,
        weight: float = 1.0,
        reduction: str = "mean",
    ) -> Iterator[None]:
        """In the context the trainable parameters are a draw from the posterior, then its mean again.

        With `train` the gradient computed at the draw counts for the next step, in proportion to `weight`
        (the size of a micro-batch whose loss is a mean). With the `reduction` "sum" the gradients of the
        draws of a step add up, as with other optimizers: for losses that have been divided by the number of
        micro-batches already, as Hugging Face's Trainer, Lightning and accelerate do. All draws of a step
        have one reduction. A draw left by an exception does not count.

        The seed of the noise is taken from `generator` if there is one, otherwise from the optimizer's own
        streams, of which training and testing have one each.

        A closure that `step()` has called is at a draw already; its first training context is that draw, and
        ends it.
        """
        if self._closure_draw is not None and train and generator is None and weight == 1:
            (blocks, weight, of_step), self._closure_draw = self._closure_draw, None
            check_reduction(reduction)
            check_agree(reduction, of_step)
            yield
            if self._active is blocks:
                self._leave(blocks, train, weight, optional=True)
            return
        blocks = self._enter(train, generator, weight, reduction)
        try:
            yield
            self._leave(blocks, train, weight)
        finally:
            if self._active is blocks:
                self._restore(blocks, train)

    @_disable_dynamo
    @torch.no_grad()
    def _enter(
        self, train: bool, generator: torch.Generator | None, weight: float, reduction: str
    ) -> list[_sampling.Block]:
        self._forbid_within("sampled_params()")
        check_weight(weight)
        check_reduction(reduction)
        if self.sync and self._has_shards():
            raise RuntimeError(
                "sync=True is for ranks that have the whole parameters each, not shards of them"
            )
        capturing = _captured.is_capturing()
        if capturing:
            states = [self.state[p] for p in self._trainable()]
            _captured.check(self.capturable, self.param_groups, states, generator)
        params = self._trainable()
        self._apart.check(params)
        follow_decay(self.param_groups, self.state)
        if train:
            self._draws.stay(capturing)
            self._draws.agree(reduction)
            self._read_gradients()
            self._draws.gradients.begin(self._params())
            self._drop_squares()
        keys = repeat(None) if capturing else self._keys(train, generator)
        fused = not self.capturable and self.hess_approx != "ggn"
        blocks = _sampling.new_blocks(self.param_groups, self.state, keys, fused=fused)
        self._active = blocks
        try:
            for block in blocks:
                block.displace()
        except BaseException:
            self._restore(blocks, train)
            raise
        torch.clear_autocast_cache()  # it has 16-bit copies of the weights as they were
        return blocks

    @_disable_dynamo
    @torch.no_grad()
    def _leave(
        self, blocks: list[_sampling.Block], train: bool, weight: float, *, optional: bool = False
    ) -> None:
        """The end of a draw; an `optional` one does not count if no parameter has a gradient from it."""
        late: list[_sampling.Block] = []
        if train:
            gradients = self._draws.gradients
            late = blocks_at_mean(self.param_groups, self.state, blocks, gradients.is_of_draw)
            gradients.check([param for block in (*blocks, *late) for param in block.params])
        for block in blocks:
            block.restore_and_keep_noise() if train else block.restore()
        if train:
            self._draws.leave([*blocks, *late], float(weight))
            if not self._draws.pending_gradients():
                self._leave_without_gradients(optional)
            if self._draws.count:
                self._show_average()
        self._end()

    def _leave_without_gradients(self, optional: bool) -> None:
        if optional:
            self._draws.drop_pending()
        elif self._has_shards():
            raise RuntimeError(
                "no parameter has a gradient from this draw: sharded ones have none before they are reduced. "
                "Reduce those of each draw, or let one sampled_params(train=True) span the micro-batches"
            )

    def _show_average(self) -> None:
        """Let `p.grad` be the average over the draws, after another one."""
        if (grads := self._draws.pending_gradients()) is not None:
            even = self._draws.even
            self._draws.update_own_sums(self.hess_approx)
            # DistributedDataParallel has averaged them, and would have averaged those of all draws.
            if not self.sync and _distributed.is_same_on_all_ranks(grads, self._params()):
                if not even:
                    self._average_over_ranks()
                self._draws.even = True
        self._draws.show(self.param_groups, self.state)

    @_disable_dynamo
    @torch.no_grad()
    def _restore(self, blocks: list[_sampling.Block], train: bool) -> None:
        for block in blocks:
            block.restore()  # what an exception has left at the draw
        if train:
            self._draws.drop_pending()
            self._draws.show(self.param_groups, self.state)
            self._draws.gradients.remember(self._params())
        self._end()

    def _end(self) -> None:
        torch.clear_autocast_cache()
        self._active = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the posterior from all training draws since the last step.

        With a `closure` (which zeroes the gradients, computes the loss, calls backward and returns the loss)
        `mc_samples` draws are made here; the mean of their losses is returned. If it raises an exception, no
        draw since the last step counts, not even those made before the call.
        """
        self._forbid_within("step()")
        loss = None
        if closure is not None:
            loss = self._run(closure)
            if self._draws.is_empty():  # it has computed no gradients
                return loss
        self._step()
        return loss

    @_disable_dynamo
    @torch.no_grad()
    def _step(self) -> None:
        self._draws.stay(_captured.is_capturing())
        follow_decay(self.param_groups, self.state)
        if not self._draws.is_empty():
            self._draws.gradients.check_unused(self._params(), self._draws.ids())
        single = None if self._needs_sums() else self._draws.take_single()
        if single is not None:
            if all(grad is None for pending in single for grad in pending.now()):
                raise RuntimeError(NO_GRADIENTS)
            for pending in single:
                self._update(pending.block.group).from_draw(pending)
        else:
            self._step_from_sums()
        self.discard_draws()

    def discard_draws(self) -> None:
        """Forget all training draws since the last step: for a step that is to be skipped."""
        self._draws.forget(self.state.values())
        self._draws.gradients.remember(self._params())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients; what a finished draw has left in them is read first and counts."""
        if self._active is None:
            self._read_gradients()
        else:
            self._draws.update_own_sums(self.hess_approx)  # at a test draw; weight_decay is as it was drawn
        super().zero_grad(set_to_none)
        self._drop_squares()
        self._draws.gradients.remember([] if set_to_none else self._params())

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, also between the draws of a step; reads the gradients of the last draw.

        The state of the noise and of an unfinished step is in the parameter groups, as plain numbers.
        """
        self._forbid_within("state_dict()")
        self._read_gradients()
        if self._draws.count and self._has_shards():
            raise RuntimeError(
                "state_dict() of sharded parameters between the draws of a step: call step() first"
            )
        self._draws.show(self.param_groups, self.state, visible=True)
        _checkpoint.note_sampling(self.param_groups, self._stream, self._draws)
        self._note_steps()
        return _checkpoint.without_counts(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where `state_dict()` was taken; states saved by ivon-opt 0.1.3 are taken, too.

        Raises ValueError if the state is that of another model or optimizer.
        """
        self._forbid_within("load_state_dict()")
        stream, draws = self._stream, Draws()
        if _checkpoint.is_of_ivon_opt(state_dict):
            state_dict = _checkpoint.from_ivon_opt(state_dict, [g["params"] for g in self.param_groups])
        else:
            stream, draws = _checkpoint.noted_sampling(state_dict)
        params = [param for group in self.param_groups for param in group["params"]]
        _checkpoint.check_shapes(state_dict, params)
        self.discard_draws()
        memory = _checkpoint.Memory(self.param_groups, self.state)
        super().load_state_dict(state_dict)
        _checkpoint.take_states(state_dict, self.param_groups, self.state)
        memory.keep(self.param_groups, self.state)
        self._stream, self._draws = stream, draws
        self._draws.gradients.remember(self._params())

    def __getstate__(self) -> dict[str, Any]:
        self._forbid_within("copying the optimizer")
        self._read_gradients()
        self._draws.show(self.param_groups, self.state, visible=True)
        self._note_steps()
        settings = ("mc_samples", "hess_approx", "sync", "debias", "rescale_lr", "capturable")
        sampling = ("_active", "_closure_draw", "_apart", "_draws", "_stream", "_seed_is_shared")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in (*settings, *sampling)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault(DECAY, group["weight_decay"])
        self._draws.gradients.remember(self._params())  # nn.Parameter is copied without

    def _forbid_within(self, call: str) -> None:
        if self._active is not None:
            raise RuntimeError(f"{call} within sampled_params(): leave that context first")

    def _note_steps(self) -> None:
        _captured.note_steps(self.state.values())

    def _trainable(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in trainable(group)]

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _has_shards(self) -> bool:
        return any(is_sharded(param) for param in self._trainable())

    def _read_gradients(self) -> None:
        follow_decay(self.param_groups, self.state)
        self._draws.update_own_sums(self.hess_approx)

    def _drop_squares(self) -> None:
        if self.hess_approx == "ggn":
            drop_squares(self._trainable())

    def _keys(self, train: bool, generator: torch.Generator | None) -> Iterator[str]:
        """The key of the noise of each block of parameters, one after the other."""
        if generator is not None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
            key = f"generator {int(seed)}"
        elif not train:
            key = self._stream.next_test()
        else:
            if not self._seed_is_shared:
                self._stream.seed = _distributed.seed_of_rank_zero(self._stream.seed)
                self._seed_is_shared = True
            key = self._stream.next_train(_distributed.rank() if self.sync else 0)
        return (f"{key} block {i}" for i in count())

    def _run(self, closure: Callable[[], Any]) -> Any:
        """The mean loss of `mc_samples` draws; they are one micro-batch where draws add up."""
        reduction = None if self._draws.is_empty() else self._draws.reduction
        weight = 1 / self.mc_samples if reduction == "sum" else 1.0
        try:
            losses = [self._at_draw(closure, weight, reduction) for _ in range(self.mc_samples)]
        except BaseException:
            self.discard_draws()
            raise
        return None if losses[0] is None else sum(losses) / len(losses)

    @torch.enable_grad()
    def _at_draw(self, closure: Callable[[], Any], weight: float, reduction: str | None) -> Any:
        """Call a closure; a context of its own, if it has one, ends the draw."""
        blocks = self._enter(True, None, weight, reduction or "mean")
        self._closure_draw = blocks, weight, reduction
        try:
            loss = closure()
            if self._closure_draw is not None:
                self._leave(blocks, True, weight, optional=True)
            return loss
        finally:
            self._closure_draw = None
            if self._active is blocks:
                self._restore(blocks, True)

    def _needs_sums(self) -> bool:
        """Whether something stands between the draws and the update: other ranks, a loss scale."""
        return self.sync or getattr(self, "found_inf", None) is not None

    def _update(self, group: Group) -> Update:
        return Update(
            group,
            estimator=self.hess_approx,
            debias=self.debias,
            rescale_lr=self.rescale_lr,
            capturable=self.capturable,
        )

    def _step_from_sums(self) -> None:
        self._draws.update_sums(self.hess_approx)
        if self._draws.is_empty():
            if all(float(group["lr"]) == 0 for group in self.param_groups):
                states_of_groups(
                    self.param_groups, self.state
                )  # torch.distributed.checkpoint so asks for states to load into
                return
            raise RuntimeError(
                "step() needs a gradient at a posterior draw: "
                "compute it within `sampled_params(train=True)`, or pass a closure"
            )
        draws = self._draws
        if draws.count > 1 and not self.sync and not draws.even:
            self._average_over_ranks()
        states = [self.state[param] for group in self.param_groups for param in self._involved(group)]
        if not self.sync and not any("grad_sum" in state for state in states):
            raise RuntimeError(NO_GRADIENTS)
        if not _loss_scale.unscale_sums(self, states, self.hess_approx, self.sync):
            return
        for group in self.param_groups:
            involved, divisor = self._involved(group), draws.divisor
            summed = [state for param in involved if "grad_sum" in (state := self.state[param])]
            draws.complete_products(group, summed, self.hess_approx)
            if self.sync:
                for of_kind in alike(involved):
                    states = [self.state[param] for param in of_kind]
                    divisor = _distributed.sum_over_ranks(states, draws.divisor)
            moved = [param for param in involved if "grad_sum" in self.state[param]]
            for of_kind in alike(moved):
                states = states_of(of_kind, group, self.state)
                self._update(group).from_sums(of_kind, states, divisor)

    def _involved(self, group: Group) -> list[Tensor]:
        """Parameters that a step may move: those that are trainable, or were so at one of its draws."""
        return [
            param
            for param in group["params"]
            if param.requires_grad or "grad_sum" in self.state.get(param, {})
        ]

    def _average_over_ranks(self) -> None:
        params = [param for group in self.param_groups for param in self._involved(group)]
        _distributed.average_where_ranks_differ(params, [self.state[param] for param in params])
