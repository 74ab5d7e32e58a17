"""Gradients of single examples, and the Gauss-Newton estimate made of them."""

import copy
import warnings

import pytest
import torch
from torch import nn

from ivon import IVON, per_example_backward

X = torch.linspace(-1, 1, 28, dtype=torch.float64).reshape(7, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 1])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_equals_a_loop_over_the_examples(chunk_size):
    model = network()
    model[0].bias.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    losses = [nn.functional.cross_entropy(model(x[None]), y[None]) for x, y in zip(X, Y, strict=True)]
    grads = [torch.autograd.grad(loss, weights) for loss in losses]
    value = per_example_backward(model, nn.functional.cross_entropy, X, Y, chunk_size=chunk_size)
    assert value.item() == pytest.approx(sum(losses).item() / 7)
    for i, p in enumerate(weights):
        of_each = torch.stack([g[i] for g in grads])
        torch.testing.assert_close(p.grad, of_each.mean(0))
        torch.testing.assert_close(p.squared_grad, of_each.square().mean(0))
    assert model[0].bias.grad is None
    first = [weights[0].grad.clone(), weights[0].squared_grad.clone()]
    per_example_backward(model, nn.functional.cross_entropy, X, Y)
    found = [weights[0].grad, weights[0].squared_grad]
    torch.testing.assert_close(found, [2 * x for x in first])  # as backward() adds
    model.zero_grad()
    per_example_backward(model, nn.functional.cross_entropy, X, Y)
    torch.testing.assert_close([weights[0].grad, weights[0].squared_grad], first)


@pytest.mark.parametrize("draws", [1, 3])
def test_ggn_estimate_by_hand(draws):
    """h <- beta2 h + (1 - beta2) s + (1 - beta2)^2 (h - s)^2 / (2 (h + delta)), s the mean of the squares."""
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 20.0, 0.7, beta2=0.8, weight_decay=0.1, hess_approx="ggn")
    squares = []
    for _ in range(draws):
        with optimizer.sampled_params(train=True):
            per_example_backward(model, nn.functional.cross_entropy, X, Y)
        squares.append([p.squared_grad.clone() for p in model.parameters()])
    optimizer.step()
    for i, p in enumerate(model.parameters()):
        s = torch.stack([of_draw[i] for of_draw in squares]).mean(0)
        expected = 0.8 * 0.7 + 0.2 * s + 0.5 * 0.04 * (0.7 - s) ** 2 / 0.8
        torch.testing.assert_close(optimizer.state[p]["hess"], expected)


@pytest.mark.parametrize("zero", ["not", "optimizer", "optimizer, to zeros", "model", "within the context"])
def test_ggn_without_squared_gradients_says_what_is_missing(zero):
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 20.0, hess_approx="ggn")
    with optimizer.sampled_params(train=True):
        per_example_backward(model, nn.functional.cross_entropy, X, Y)
        if zero == "within the context":
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
    if zero != "within the context":
        optimizer.step()
        if zero.startswith("optimizer"):
            optimizer.zero_grad(set_to_none=zero == "optimizer")
        elif zero == "model":
            model.zero_grad()
        with optimizer.sampled_params(train=True):  # those of the step before do not count
            nn.functional.cross_entropy(model(X), Y).backward()
    with pytest.raises(RuntimeError, match="per_example_backward"):
        optimizer.step()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1e-3), (torch.bfloat16, 1.0)], ids=str)
def test_squares_of_16_bit_gradients_are_of_32(dtype, scale):
    """In 16 bits small ones are zero, and sums over thousands of examples stand still."""
    model = network().to(dtype)
    x, y = (scale * X).to(dtype).repeat(100, 1), Y.repeat(100)
    per_example_backward(model, nn.functional.cross_entropy, x, y, chunk_size=7)
    found = [p.squared_grad for p in model.parameters()]
    assert all(s.dtype == torch.float32 for s in found)
    assert all(p.grad.dtype == dtype for p in model.parameters())
    model.double().zero_grad()
    per_example_backward(model, nn.functional.cross_entropy, x.double(), y)
    for squares, p in zip(found, model.parameters(), strict=True):
        expected = p.squared_grad.float()
        # Forward and backward pass are in 16 bits.
        assert ((squares - expected).norm() / expected.norm()).item() < 0.03


def test_inputs_and_targets_have_to_agree():
    with pytest.raises(ValueError, match="7 and 6"):
        per_example_backward(network(), nn.functional.cross_entropy, X, Y[:6])


class Shared(nn.Module):
    """A layer that is called twice, and values that are changed in place."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x).tanh_()
        return self.inner(self.inner(x).tanh_())


class ByHand(nn.Module):
    """Uses the parameters of a layer without calling it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x).tanh() @ self.second.weight.T + self.second.bias


class CalledAndByHand(ByHand):
    """Calls the layer, too."""

    def forward(self, x):
        return super().forward(x) + self.second(x)


class TimesFirst(nn.Module):
    """Its layers see (times, examples, features)."""

    def __init__(self, times, features):
        super().__init__()
        self.unflatten = nn.Unflatten(1, (times, features))
        self.first, self.second = nn.Linear(features, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(self.first(self.unflatten(x).transpose(0, 1)).tanh())[-1]


class Flattened(TimesFirst):
    """They see (examples * times, features)."""

    def forward(self, x):
        hidden = self.first(self.unflatten(x).flatten(0, 1)).tanh()
        return self.second(hidden).unflatten(0, (len(x), -1)).sum(1)


class Detached(nn.Module):
    """A layer that is called twice, once for a value that is a constant to the gradient."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = self.first(x).tanh()
        return self.second(hidden) - self.constant(2 * hidden)

    def constant(self, hidden):
        return self.second(hidden).detach()


class Constant(Detached):
    """The same by other means, and a layer of which all calls are constants."""

    def __init__(self):
        super().__init__()
        self.third = nn.Linear(4, 3)

    @torch.no_grad()
    def constant(self, hidden):
        return self.second(hidden) * self.third(hidden)


class Scale(nn.Module):
    """A layer that has the gradients of the examples apart by itself."""

    takes_parameters_of_each = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 4))

    def forward(self, x):
        return x * self.weight


def changed_output(_layer, _args, output):
    return 2 * output.tanh_()


def changed_input(_layer, args):
    return (args[0].sin(),)


def with_hooks():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    for layer in (model[0], model[2]):
        layer.register_forward_pre_hook(changed_input)
        layer.register_forward_hook(changed_output)
    return model


def normed():
    """Its parameters are of other names; a hook makes the weight of them."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        nn.utils.weight_norm(model[0], dim=None)
    return model


def with_replaced_forward():
    model = nn.Linear(4, 3)
    of_class = model.forward
    model.forward = lambda x: of_class(x).sin()
    return model


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_pre_hooks, *m._forward_hooks)]


NETWORKS = {
    "called and by hand": CalledAndByHand,
    "times first": lambda: TimesFirst(2, 2),
    "as many times as examples": lambda: TimesFirst(4, 1),  # in the first chunk
    "times flattened": lambda: Flattened(2, 2),
    "detached": Detached,
    "constant": Constant,
    "parameters of each": lambda: nn.Sequential(nn.Linear(4, 4), Scale(), nn.Linear(4, 3)),
    "hooks": with_hooks,
    "weight norm": normed,
    "replaced forward": with_replaced_forward,
    "shared": lambda: Shared(nn.Linear(4, 4)),
    "by hand": ByHand,
    "one layer": lambda: nn.Linear(4, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "unknown layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
    "sequence": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.Flatten(), nn.Linear(6, 3)
    ),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 4, 3, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, (3, 2), stride=2, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 2, 3, padding="same"),
        nn.Flatten(),
        nn.LazyLinear(3),
    ),
    "strided images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 4, 3, padding=2),
        nn.Conv2d(4, 4, (3, 2), stride=2, padding=2, dilation=2, groups=2, bias=False),
        nn.Flatten(),
        nn.LazyLinear(3),
    ),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds_equal_a_loop(name, frozen):
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    model(X)  # lazy layers take their shape
    if frozen:
        next(model.parameters()).requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    losses = [nn.functional.cross_entropy(model(x[None]), y[None]) for x, y in zip(X, Y, strict=True)]
    grads = [torch.autograd.grad(loss, weights, materialize_grads=True) for loss in losses]
    shown: list[torch.Tensor] = []
    hooks = hooks_of(model)
    per_example_backward(model, nn.functional.cross_entropy, X, Y, chunk_size=4, seen=shown.append)
    for i, p in enumerate(weights):
        of_each = torch.stack([g[i] for g in grads])
        torch.testing.assert_close(p.grad, of_each.mean(0))
        torch.testing.assert_close(p.squared_grad, of_each.square().mean(0))
    torch.testing.assert_close(torch.cat(shown), model(X).detach())
    assert not torch.cat(shown).requires_grad
    assert hooks_of(model) == hooks


def outcome(model, inputs, targets, size=None):
    per_example_backward(model, nn.functional.cross_entropy, inputs, targets, chunk_size=size)
    return [(p.grad, p.squared_grad) for p in model.parameters()]


class First(nn.Module):
    def forward(self, x):
        return x[0]


class Last(nn.Module):
    def forward(self, x):
        return x[-1]


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 4), Scale])
@pytest.mark.parametrize("select", [First, Last])
@pytest.mark.parametrize("examples", [2, 3, 6])
def test_as_many_times_as_examples(examples, select, layer):
    """Shapes do not tell them apart."""
    torch.manual_seed(0)
    x, y = torch.randn(examples, examples, 4, dtype=torch.float64), Y[:examples]
    model = nn.Sequential(Turned(), layer(), nn.Tanh(), nn.Linear(4, 3), select()).double()
    whole = outcome(model, x, y)
    model.zero_grad()
    for found, alone in zip(whole, outcome(model, x, y, 1), strict=True):
        torch.testing.assert_close(found, alone)


def test_a_last_layer_of_zeros_proves_nothing():
    """Only its own gradients are there to be seen; the layers before it are looked at again."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 4, 4, dtype=torch.float64), Y[:4]
    model = nn.Sequential(Turned(), nn.Linear(4, 4), nn.Tanh(), Last(), nn.Linear(4, 3)).double()
    nn.init.zeros_(model[4].weight)
    outcome(model, x, y)
    nn.init.normal_(model[4].weight)
    model.zero_grad()
    whole = outcome(model, x, y)
    model.zero_grad()
    for found, alone in zip(whole, outcome(model, x, y, 1), strict=True):
        torch.testing.assert_close(found, alone)


def test_layers_are_tried_once(monkeypatch):
    """And then one backward pass is enough."""
    model, passes = network(), []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda *a, **k: (passes.append(1), backward(*a, **k))[1])
    outcome(model, X, Y)
    assert len(passes) == 3
    outcome(model, X, Y)
    assert len(passes) == 4
    model.zero_grad()
    torch.testing.assert_close(
        outcome(model, X[:4], Y[:4])[0][1], outcome(copy.deepcopy(model), X[:4], Y[:4])[0][1]
    )
    assert len(passes) == 8


def test_others_get_no_gradients_from_the_trial():
    """What is learned beside the model has the gradients of one pass, the inputs none."""
    inputs, model = X.clone().requires_grad_(), network()
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)

    def loss(outputs, target):
        return nn.functional.cross_entropy(outputs * temperature, target)

    per_example_backward(model, loss, inputs, Y)
    first, temperature.grad = temperature.grad.clone(), None
    per_example_backward(model, loss, inputs, Y)
    torch.testing.assert_close(temperature.grad, first)
    assert inputs.grad is None


def test_hooks_of_all_modules():
    """They come before those of a module."""
    model = network()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _args, output: 2 * output if isinstance(module, nn.Linear) else None
    )
    try:
        found = outcome(model, X, Y)
        model.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        for p, (grad, _) in zip(model.parameters(), found, strict=True):
            torch.testing.assert_close(p.grad, grad)
    finally:
        handle.remove()


def test_outputs_without_gradients():
    model = network()
    model[2].register_forward_hook(lambda _layer, _args, output: output.detach())
    assert not any(value.count_nonzero() for pair in outcome(model, X, Y) for value in pair)


def test_layers_take_no_part_in_other_passes():
    """An exception in the loss leaves no hook behind."""
    model = network()

    def broken(_outputs, _target):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        per_example_backward(model, broken, X, Y)
    assert not hooks_of(model)


def test_examples_that_mix_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).double()
    with pytest.raises((RuntimeError, ValueError)):
        per_example_backward(model, nn.functional.cross_entropy, X, Y)
