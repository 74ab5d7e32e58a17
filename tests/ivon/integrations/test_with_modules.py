"""Ways in which models are built and watched: tied weights, hooks, parametrizations, parts of a model."""

import contextlib
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from ivon import IVON

STEPS = 12


class Tied(nn.Module):
    """Reads with the matrix it writes with, as language models do."""

    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


def test_tied_weights_are_one_parameter(task):
    tokens = torch.arange(5).repeat(4)
    target = (2 * tokens + 1) % 5

    def train(model, head):
        optimizer = task.optimizer([model.embed.weight, *model.mix.parameters()])
        for _ in range(STEPS):
            with optimizer.sampled_params(train=True):
                hidden = torch.tanh(model.mix(model.embed(tokens)))
                nn.functional.cross_entropy(hidden @ head(model).T, target).backward()
            optimizer.step()
        return model, optimizer

    model, optimizer = train(Tied(tied=True), lambda model: model.head.weight)
    by_hand, by_hand_optimizer = train(Tied(tied=False), lambda model: model.embed.weight)
    assert model.head.weight is model.embed.weight
    assert len(task.optimizer(model).param_groups[0]["params"]) == 3
    assert (model(tokens).argmax(dim=1) == target).all()
    for p, q in ((model.embed.weight, by_hand.embed.weight), (model.mix.bias, by_hand.mix.bias)):
        assert torch.equal(optimizer.state[p]["hess"], by_hand_optimizer.state[q]["hess"])
        assert torch.equal(p, q)


def test_forward_and_backward_hooks_see_the_draw(task):
    model = task.model()
    optimizer = task.optimizer(model)
    mean, seen = [], []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(module.weight.detach().clone()))
    model[0].register_full_backward_hook(lambda module, *_: seen.append(module.weight.detach().clone()))
    task.train(model, optimizer, before_step=lambda: mean.append(model[0].weight.detach().clone()))
    assert len(seen) == 2 * STEPS
    for forward, backward, between in zip(seen[::2], seen[1::2], mean, strict=True):
        assert torch.equal(forward, backward)
        assert not torch.equal(forward, between)
    task.assert_same(optimizer, task.trained()[1])


def halve(tensor):
    return tensor * 0.5


def halve_grad(param):
    param.grad.mul_(0.5)


@pytest.mark.parametrize("kind", ["tensor hook", "post-accumulate hook", "pre-hook of the step"])
def test_hooks_may_change_gradients(task, kind):
    model = task.model()
    optimizer = task.optimizer(model)
    if kind == "tensor hook":
        model[2].weight.register_hook(halve)
    elif kind == "post-accumulate hook":
        model[2].weight.register_post_accumulate_grad_hook(halve_grad)
    else:
        optimizer.register_step_pre_hook(lambda *_: halve_grad(model[2].weight))
    task.train(model, optimizer)

    by_hand = task.model()
    by_hand_optimizer = task.optimizer(by_hand)
    task.train(by_hand, by_hand_optimizer, before_step=lambda: halve_grad(by_hand[2].weight))
    task.assert_same(optimizer, by_hand_optimizer)
    task.assert_learned(model, optimizer)
    assert not torch.equal(model[2].weight, task.trained()[0][2].weight)


def test_hooks_of_the_optimizer_run_once_a_step(task):
    model = task.model()
    optimizer = task.optimizer(model)
    calls = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("before", o is optimizer)))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("after", o is optimizer)))
    optimizer.register_state_dict_post_hook(lambda o, state: calls.append(("saved", "state" in state)))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append(("loaded", o is optimizer)))
    task.train(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == [(name, True) for name in ["before", "after"] * 2 + ["saved", "loaded"]]


def test_stepping_in_backward_is_refused_in_words(task):
    """One optimizer for each parameter, stepped as its gradient arrives, would step within the draw."""
    model = task.model()
    optimizers = {param: task.optimizer([param]) for param in model.parameters()}
    for param in model.parameters():
        param.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    with contextlib.ExitStack() as draws:
        for optimizer in optimizers.values():
            draws.enter_context(optimizer.sampled_params(train=True))
        loss = task.loss(model)
        with pytest.raises(RuntimeError, match="leave that context first"):
            loss.backward()


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_train(task, norm):
    model = task.model()
    norm(model[0])
    optimizer = task.optimizer(model)
    mean = model[0].weight.detach().clone()
    with optimizer.sampled_params():
        assert not torch.equal(model[0].weight, mean)  # made of the draw
    task.train(model, optimizer)
    task.assert_learned(model, optimizer, at_most=0.8)  # spectral_norm keeps the first layer small


def test_recurrent_networks_train(task):
    """Their weights are parts of one buffer on some devices, and also listed in a place of their own."""
    torch.manual_seed(0)
    inputs = torch.randn(16, 5, 3)
    target = inputs[:, :, 0].sum(dim=1, keepdim=True).sign()
    lstm, head = nn.LSTM(3, 12, batch_first=True), nn.Linear(12, 1)

    def loss():
        return nn.functional.soft_margin_loss(head(lstm(inputs)[0][:, -1]), target)

    optimizer = task.optimizer([*lstm.parameters(), *head.parameters()], lr=1.0)
    first = loss().item()
    for _ in range(4 * STEPS):
        with optimizer.sampled_params(train=True):
            loss().backward()
        optimizer.step()
    assert loss().item() < 0.6 * first


def test_state_dict_of_a_part_holds_that_part_only(task):
    """A saved view saves all that it is a view of."""
    model, _ = task.trained()
    buffer = io.BytesIO()
    torch.save(model[2].state_dict(), buffer)
    loaded = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert all(torch.equal(loaded[name], p) for name, p in model[2].named_parameters())
    for param in model.parameters():
        assert param.untyped_storage().nbytes() == 4 * param.numel()


def test_averaged_model_averages_means_not_draws(task):
    model = task.model()
    optimizer = task.optimizer(model)
    averaged, sums = AveragedModel(model), [torch.zeros_like(p) for p in model.parameters()]

    def collect():
        averaged.update_parameters(model)
        for total, p in zip(sums, model.parameters(), strict=True):
            total += p.detach()

    task.train(model, optimizer, after_step=collect)
    for mean, total in zip(averaged.module.parameters(), sums, strict=True):
        torch.testing.assert_close(mean, total / STEPS)
    task.assert_same(optimizer, task.trained()[1])


def test_functional_call_takes_the_draw_and_keeps_it(task):
    """Copies of a draw made within the context outlive it: several draws can be evaluated at once."""
    model, optimizer = task.trained()
    draws, outputs = [], []
    for _ in range(3):
        with torch.no_grad(), optimizer.sampled_params():
            draws.append({name: p.detach().clone() for name, p in model.named_parameters()})
            outputs.append(model(task.inputs))
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    together = torch.vmap(lambda weights: torch.func.functional_call(model, weights, task.inputs))(stacked)
    torch.testing.assert_close(together, torch.stack(outputs))


def test_one_optimizer_for_two_models_and_two_for_one(task):
    one, other = task.model(), task.model()
    shared = IVON([*one.parameters(), *other.parameters()], lr=0.5, ess=300.0, hess_init=0.3, beta2=0.9)
    for k in range(STEPS):
        with shared.sampled_params(train=True):
            batch = task.batch(k)
            (task.loss(one, batch) + task.loss(other, batch)).backward()
        shared.step()
    assert not torch.equal(one[0].weight, other[0].weight)
    task.assert_learned(one, shared)
    task.assert_learned(other, shared)

    model = task.model()
    body, head = task.optimizer(model[0]), torch.optim.AdamW(model[2].parameters(), lr=0.05)
    for k in range(STEPS):
        head.zero_grad()
        with body.sampled_params(train=True):
            task.loss(model, task.batch(k)).backward()
        body.step()
        head.step()
    task.assert_learned(model, body, at_most=0.7)
