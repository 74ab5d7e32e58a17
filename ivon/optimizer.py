"""The IVON optimizer: a Gaussian posterior over the weights, learned at the price of Adam."""

import math
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable, without a second more for our import
from torch.optim import Optimizer

from ivon import _captured, _checkpoint, _distributed, _exchange, _loss_scale, _sampling
from ivon._accumulate import Draws, check_agree, drop_squares
from ivon._apart import Apart
from ivon._joined import blocks_at_mean
from ivon._noise import NoiseStream
from ivon._parts import PART, Parts, check_part
from ivon._settings import (
    AGREED,
    BETAS,
    OF_ALL_GROUPS,
    check_group,
    check_optimizer,
    check_reduction,
    check_same,
    check_weight,
    follow_betas,
    plain,
    with_betas,
    without_prior,
)
from ivon._shards import is_sharded, local
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
        lr: learning rate alpha; about that of SGD when `rescale_lr` is on. A number, or a tensor of one,
            which schedulers then change in place.
        ess: effective sample size lambda; the number of training examples.
        hess_init: h0, where the Hessian estimate starts.
        beta1, beta2: decay of the gradient momentum and of the Hessian estimate. In a parameter group
            `betas` is another name of the two, as schedulers know it that cycle the momentum (OneCycleLR,
            CyclicLR); from the next step on holds what was set last.
        weight_decay: delta; the prior precision is ess * weight_decay. With 0 there is no proper prior, and a
            warning.
        clip_radius: xi, the largest entry of a step before the learning rate.
        betas: beta1 and beta2 together.
        mc_samples: draws per step of `step(closure)`.
        hess_approx: "price", the reparameterisation estimator of Eq. 3; "gradsq", ess times the squared
            gradient of each draw; or "ggn", the mean of the squared gradients of single examples, for which
            gradients are computed with `ivon.per_example_backward`.
        sync: in a process group, let every rank draw its own noise and average the estimates in `step()`,
            weighted by the weights of the draws; for models without DistributedDataParallel, or within its
            no_sync(). If False, copies of a parameter draw alike on all ranks, which is right where their
            gradients are already averaged, and different parameters apart; see `part`.
        debias: divide the momentum by the total weight that it gives to gradients: 1 - beta1^t, or 1 - the
            product of the beta1 of all steps where it changes.
        rescale_lr: multiply the learning rate by hess_init + weight_decay.
        capturable: draws and steps may be captured in a CUDA graph, after a step outside of one. Noise in a
            graph comes from PyTorch's generator of the GPU, whose state then belongs into a checkpoint
            (`torch.cuda.get_rng_state`), and a graph keeps the settings of its capture, also a beta1 that is
            cycled; only the learning rate changes if it is a tensor on the GPU. Not with GradScaler or in a
            process group.
        part: in a process group, what ranks have copies of: a name or number of their parameters (such as the
            stage of a pipeline), which may differ between parameter groups, too. Without it ranks compare
            their parameters at the first training draw, and again after the first step: those that are the
            same are copies. It is needed where that misleads, which may be said by an error: stages that
            begin with the same values, tied weights on several ranks. It is not saved in checkpoints. With
            a part for all parameters and a seed from `seed()` ranks ask nothing of each other.
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
        betas: tuple[float, float] | None = None,
        part: int | str | None = None,
    ) -> None:
        check_optimizer(mc_samples, hess_approx)
        settings = {
            "lr": lr,
            "ess": ess,
            "hess_init": hess_init,
            "beta1": beta1,
            "beta2": beta2,
            "betas": betas,
            "weight_decay": weight_decay,
            "clip_radius": clip_radius,
        }
        settings = with_betas(settings)
        check_group(settings)
        shared = (mc_samples, hess_approx, sync, debias, rescale_lr, capturable)
        defaults = plain(settings) | dict(zip(OF_ALL_GROUPS, shared, strict=True))
        if part is not None:  # a key in the groups of those who need it: it would be one in all checkpoints
            defaults[PART] = part
        self._parts = Parts()
        super().__init__(params, defaults | {"betas": None})  # which schedulers look for
        self.mc_samples = mc_samples
        self.hess_approx = hess_approx
        self.sync = sync
        self.debias = debias
        self.rescale_lr = rescale_lr
        self.capturable = capturable
        self._active: list[_sampling.Block] | None = None  # the draw that the parameters are at
        # That of a closure in step(), its weight, and the reduction of draws before the call.
        self._closure_draw: tuple[list[_sampling.Block], float, str | None] | None = None
        self._apart = Apart()
        self._draws = Draws()
        self._remember_gradients()  # those that another optimizer has left
        self._stream = NoiseStream(int(torch.randint(2**63 - 1, (), device="cpu")))
        self._note_for_checkpoint()
        if text := without_prior(self.param_groups):
            warnings.warn(text, stacklevel=2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what is not given is the constructor's."""
        if AGREED in param_group:  # of another IVON
            follow_betas(param_group)
        given = with_betas(param_group)
        check_group({**self.defaults, **given})
        check_same(given, self.defaults)
        check_part(param_group.get(PART, self.defaults.get(PART)))
        super().add_param_group(param_group)
        self._parts = Parts(self._parts.seed_is_given)
        group = self.param_groups[-1]
        for name in OF_ALL_GROUPS:
            del group[name]
        group |= plain({**group, **{name: given.get(name, self.defaults[name]) for name in BETAS}})
        group["betas"] = None
        follow_betas(group)
        group[DECAY] = group["weight_decay"]
        for param in group["params"]:
            if not param.is_floating_point():
                self.param_groups.pop()
                raise ValueError(f"parameters must be of a real floating-point dtype, got {param.dtype}")
        if "_stream" in vars(self):  # the constructor, which calls this too, does so for all groups at once
            self._draws.gradients.join(group["params"])
            if group["weight_decay"] == 0:
                warnings.warn(without_prior(self.param_groups), stacklevel=2)

    def seed(self, seed: int) -> None:
        """Start the noise anew from `seed`. Without a call the seed comes from PyTorch's global generator."""
        self._stream = NoiseStream(operator.index(seed))
        self._parts = Parts(seed_is_given=True)

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
        self._parts.flats(self.param_groups).let_go()
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
            self._parts.learn(self.param_groups, self.state, self._stream, self.sync)
            self._draws.stay(capturing)
            self._draws.agree(reduction)
            self._read_gradients()
            if (flats := self._parts.flats(self.param_groups)) and flats.have_known_gradients():
                self._remember_gradients()
            self._draws.gradients.begin(self._params())
            self._drop_squares()
        key = None if capturing else self._key(train, generator)
        fused = not self.capturable and self.hess_approx != "ggn"
        blocks = _sampling.new_blocks(self.param_groups, self.state, key, self._parts, fused=fused)
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
        flats = self._parts.flats(self.param_groups)
        flats.let_go()
        late: list[_sampling.Block] = []
        if train:
            gradients = self._draws.gradients
            late = blocks_at_mean(self.param_groups, self.state, blocks, gradients.is_of_draw)
            gradients.check([param for block in (*blocks, *late) for param in block.params])
        for block in blocks:
            block.restore_and_keep_noise() if train else block.restore()
        if train:
            flats.check_gradients(self._trainable())
            self._draws.leave([*blocks, *late], float(weight))
            flats.note_gradients()
            if not self._draws.pending_gradients():
                self._leave_without_gradients(optional)
            if self._draws.count:
                self._show_average()
        self._end()

    def _leave_without_gradients(self, optional: bool) -> None:
        if optional:
            self._draws.drop_pending()
        elif self._has_shards() and self._holds_any():
            raise RuntimeError(
                "no parameter has a gradient from this draw: sharded ones have none before they are reduced. "
                "Reduce those of each draw, or let one sampled_params(train=True) span the micro-batches"
            )

    def _show_average(self) -> None:
        """Let `p.grad` be the average over the draws, after another one."""
        if (grads := self._draws.pending_gradients()) is not None:
            even = self._draws.even
            if self.sync:
                self._parts.refuse_averaged(grads)
            self._draws.update_own_sums(self.hess_approx)
            # DistributedDataParallel has averaged them, and would have averaged those of all draws.
            if self._is_one_model() and _distributed.is_same_on_all_ranks(grads, self._params()[0].device):
                if not even:
                    self._average_over_ranks()
                self._draws.even = True
        self._draws.show(self.param_groups, self.state)

    @_disable_dynamo
    @torch.no_grad()
    def _restore(self, blocks: list[_sampling.Block], train: bool) -> None:
        self._parts.flats(self.param_groups).let_go()
        for block in blocks:
            block.restore()  # what an exception has left at the draw
        if train:
            self._draws.drop_pending()
            self._draws.show(self.param_groups, self.state)
            self._remember_gradients()
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
        self._parts.stepped()
        follow_decay(self.param_groups, self.state)
        if not self._draws.is_empty():
            self._draws.gradients.check_unused(self._params(), self._draws.ids())
        single = None if self._needs_sums() else self._draws.take_single()
        if single is not None:
            if all(grad is None for pending in single for grad in pending.now()) and self._holds_any():
                raise RuntimeError(NO_GRADIENTS)
            for pending in single:
                self._update(pending.block.group).from_draw(pending)
        else:
            self._step_from_sums()
        self.discard_draws()

    def discard_draws(self) -> None:
        """Forget all training draws since the last step: for a step that is to be skipped."""
        self._draws.forget(self.state.values())
        self._remember_gradients()

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
        with (
            self.register_state_dict_pre_hook(lambda _: self._prepare_state_dict()),
            self.register_state_dict_post_hook(_checkpoint.drop_counts, prepend=True),
        ):
            return super().state_dict()

    def _prepare_state_dict(self) -> None:
        self._read_gradients()
        if self._draws.count and self._has_shards():
            raise RuntimeError(
                "state_dict() of sharded parameters between the draws of a step: call step() first"
            )
        self._draws.show(self.param_groups, self.state, visible=True)
        self._note_for_checkpoint()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where `state_dict()` was taken; states saved by ivon-opt 0.1.3 are taken, too.

        Settings of parameter groups are those of the state; others stay as they are, with a warning where the
        state was learned with another hess_approx, debias or rescale_lr: the change may be meant, and the
        posterior is one all the same. ivon-opt does not save the number of steps; there is a warning, too,
        that `step` is an estimate. Of checkpoints of earlier versions torch.distributed.checkpoint has to be
        told that entries may be missing: `DefaultLoadPlanner(allow_partial_load=True)`.

        Raises ValueError if the state is that of another model or optimizer.
        """
        self._forbid_within("load_state_dict()")
        load = _checkpoint.Load(self.param_groups, vars(self))
        parts = [group.get(PART) for group in self.param_groups]

        def end(_: Optimizer) -> None:
            load.end(self.param_groups, self.state)
            for group, part in zip(self.param_groups, parts, strict=True):  # of this rank, whoever has saved
                group.pop(PART, None)
                group.update({} if part is None else {PART: part})
            self._stream, self._draws = load.stream or self._stream, load.draws
            self._remember_gradients()
            self._note_for_checkpoint()

        # Hooks of our own, next to what torch.optim does: others see what they see with its optimizers.
        with (
            self.register_load_state_dict_pre_hook(load.begin),
            self.register_load_state_dict_post_hook(end, prepend=True),
        ):
            super().load_state_dict(state_dict)
        for text in load.warnings(self.param_groups):
            warnings.warn(text, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        self._forbid_within("copying the optimizer")
        self._read_gradients()
        self._draws.show(self.param_groups, self.state, visible=True)
        self._note_steps()
        sampling = ("_active", "_closure_draw", "_apart", "_draws", "_stream", "_parts")
        own = {name: getattr(self, name) for name in (*OF_ALL_GROUPS, *sampling)}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # PyTorch's addition, which the constructor does not take
        for group in self.param_groups:
            group.setdefault(DECAY, group["weight_decay"])
            follow_betas(group)
        self._remember_gradients()  # nn.Parameter is copied without

    def _forbid_within(self, call: str) -> None:
        if self._active is not None:
            raise RuntimeError(f"{call} within sampled_params(): leave that context first")

    def _note_steps(self) -> None:
        """Bring up to date what is read in groups and states: what schedulers set, what the device counts."""
        for group in self.param_groups:
            follow_betas(group)
        _captured.note_steps(self.state.values())

    def _note_for_checkpoint(self) -> None:
        self._note_steps()
        _checkpoint.note_sampling(self.param_groups, self._stream, self._draws)
        _checkpoint.note_learned_with(self.param_groups, vars(self))

    def _trainable(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in trainable(group)]

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _remember_gradients(self) -> None:
        self._draws.gradients.remember(self._params())
        self._parts.flats(self.param_groups).note_gradients()

    def _has_shards(self) -> bool:
        return any(map(is_sharded, self._trainable())) or bool(self._parts.flats(self.param_groups))

    def _is_one_model(self) -> bool:
        """Whether all ranks of a process group hold copies of all parameters, with averaged gradients."""
        apart = self.sync or self._has_shards() or self._parts.names(self.param_groups)
        return _exchange.in_group() and not apart

    def _read_gradients(self) -> None:
        follow_decay(self.param_groups, self.state)
        self._draws.update_own_sums(self.hess_approx)

    def _drop_squares(self) -> None:
        if self.hess_approx == "ggn":
            drop_squares(self._trainable())

    def _holds_any(self) -> bool:
        """Whether this process holds any number at all: of a small sharded model some hold none."""
        return any(local(param).numel() for param in self._trainable())

    def _key(self, train: bool, generator: torch.Generator | None) -> str:
        """The key of the noise of a draw."""
        if generator is not None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
            return f"generator {int(seed)}"
        if not train:
            return self._stream.next_test()
        return self._stream.next_train(_distributed.rank() if self.sync else 0)

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
        last = self._draws.pending_gradients() if self.sync else None
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
        sums = [state["grad_sum"] for state in states if "grad_sum" in state]
        if last is not None:
            self._parts.refuse_averaged(last)
        if not self.sync and not sums and self._holds_any():
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
        states = [self.state[param] for param in params]
        _distributed.average_where_ranks_differ(self.param_groups, params, states, self._parts)
