"""Gradient accumulation: draws of their own for the micro-batches of a step, or one draw for all of them."""

import pytest
import torch
from torch import nn

SIZES = (7, 1, 5, 3)  # of the micro-batches of a batch of 16
STEPS = 12


def micro_batches(task, k):
    return zip(*(data.split(SIZES) for data in task.batch(k)), strict=True)


def whole_batches(task, **options):
    """One draw from a generator for each step, with the whole batch."""
    model = task.model()
    optimizer = task.optimizer(model, **options)
    for k in range(STEPS):
        with optimizer.sampled_params(train=True, generator=torch.Generator().manual_seed(k)):
            task.loss(model, task.batch(k)).backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("unit", [1.0, 0.25, 3.0])
def test_weights_in_proportion_to_sizes_give_the_estimate_of_the_whole_batch(task64, unit):
    """The paper's B_k / sum_j B_j, here with the same noise for all, so that nothing else can differ."""
    task, model = task64, task64.model()
    optimizer = task.optimizer(model)
    for k in range(STEPS):
        for micro_batch in micro_batches(task, k):
            generator = torch.Generator().manual_seed(k)
            weight = unit * len(micro_batch[1])
            with optimizer.sampled_params(train=True, generator=generator, weight=weight):
                task.loss(model, micro_batch).backward()
        optimizer.step()
    task.assert_same(optimizer, whole_batches(task)[1], rtol=1e-9, atol=1e-12)  # another order of summation
    task.assert_learned(model, optimizer)


def test_own_draws_with_weights_learn(task):
    model = task.model()
    optimizer = task.optimizer(model)
    for k in range(STEPS):
        for micro_batch in micro_batches(task, k):
            with optimizer.sampled_params(train=True, weight=len(micro_batch[1])):
                task.loss(model, micro_batch).backward()
        optimizer.step()
    task.assert_learned(model, optimizer)


@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_one_draw_for_all_micro_batches_adds_gradients_up_as_always(task64, hess_approx):
    """Without a weight: the shares are in the losses, and clipping sees the gradient of the whole batch."""
    task, model = task64, task64.model()
    optimizer = task.optimizer(model, hess_approx=hess_approx)
    for k in range(STEPS):
        with optimizer.sampled_params(train=True, generator=torch.Generator().manual_seed(k)):
            for micro_batch in micro_batches(task, k):
                (task.loss(model, micro_batch) * len(micro_batch[1]) / sum(SIZES)).backward()
        optimizer.step()
    whole = whole_batches(task, hess_approx=hess_approx)[1]
    task.assert_same(optimizer, whole, rtol=1e-9, atol=1e-12)  # another order of summation
    # ess times squared gradients of a whole batch is a large Hessian: small steps.
    task.assert_learned(model, optimizer, at_most=0.5 if hess_approx == "price" else 1.05)


def test_clipping_after_several_draws_is_clipping_their_average(task64):
    """As if each had been clipped by the factor that the norm of the average asks for."""
    task, results, factors = task64, [], []
    for within in (False, True):
        model = task.model()
        optimizer = task.optimizer(model)
        for k in range(STEPS):
            for micro_batch in micro_batches(task, k):
                with optimizer.sampled_params(train=True, weight=len(micro_batch[1])):
                    task.loss(model, micro_batch).backward()
                    if within:
                        for param in model.parameters():
                            param.grad *= factors[k]
            if not within:
                norm = nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                factors.append(min(1.0, 0.3 / norm.item()))
            optimizer.step()
        results.append(optimizer)
    task.assert_same(*results, rtol=1e-4, atol=1e-5)  # clip_grad_norm_ adds 1e-6 to the norm
    assert min(factors) < 0.9
    task.assert_learned(model, optimizer, at_most=0.9)


def test_clipping_after_every_draw_is_clipping_the_average_so_far(task):
    """As loops do that clip without asking whether a step follows; here from one draw to the next."""
    model, by_hand = task.model(), task.model()
    optimizer = task.optimizer(model)
    for k in range(3):
        total = [torch.zeros_like(param) for param in model.parameters()]
        for count in range(1, 4):
            with optimizer.sampled_params(train=True):
                task.loss(model, task.batch(k)).backward()
                for so_far, param in zip(total, model.parameters(), strict=True):
                    so_far += param.grad
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            for so_far, param in zip(total, by_hand.parameters(), strict=True):
                param.grad = so_far / count
            nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
            for so_far, param, ours in zip(total, by_hand.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, param.grad)
                so_far.copy_(param.grad * count)
        optimizer.step()


@pytest.mark.parametrize("via", ["a draw", "a closure"])
def test_gradients_computed_outside_a_draw_are_not_dropped_in_silence(task, via):
    """As of a framework that runs all but the last micro-batch by itself, at the mean."""
    model, optimizer = task.trained()

    def closure():
        loss = task.loss(model, task.batch(1))
        loss.backward()
        return loss

    def step():
        if via == "a closure":
            optimizer.step(closure)
        else:
            with optimizer.sampled_params(train=True):
                closure()
            optimizer.step()

    optimizer.zero_grad()
    task.loss(model, task.batch(0)).backward()
    with pytest.raises(RuntimeError, match="sampled_params"):
        step()


def test_closure_without_gradients_after_a_draw_is_not_one_more_draw(task):
    """Lightning hands step() a closure that does nothing when the user has called backward already."""
    results = []
    for closure in (None, lambda: None):
        model = task.model()
        optimizer = task.optimizer(model)
        for k in range(STEPS):
            with optimizer.sampled_params(train=True, generator=torch.Generator().manual_seed(k)):
                task.loss(model, task.batch(k)).backward()
            optimizer.step(closure)
        results.append(optimizer)
    task.assert_same(*results)
