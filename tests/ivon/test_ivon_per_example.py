"""Gradients of single examples, and the Gauss-Newton estimate made of them."""

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
    first = weights[0].grad.clone()
    per_example_backward(model, nn.functional.cross_entropy, X, Y)
    torch.testing.assert_close(weights[0].grad, 2 * first)  # as backward() adds


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


def test_ggn_without_squared_gradients_says_what_is_missing():
    model = network()
    optimizer = IVON(model.parameters(), 0.1, 20.0, hess_approx="ggn")
    with optimizer.sampled_params(train=True):
        per_example_backward(model, nn.functional.cross_entropy, X, Y)
    optimizer.step()
    with optimizer.sampled_params(train=True):  # those of the step before do not count
        nn.functional.cross_entropy(model(X), Y).backward()
    with pytest.raises(RuntimeError, match="per_example_backward"):
        optimizer.step()


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


NETWORKS = {
    "called and by hand": CalledAndByHand,
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
    grads = [torch.autograd.grad(loss, weights) for loss in losses]
    shown: list[torch.Tensor] = []
    per_example_backward(model, nn.functional.cross_entropy, X, Y, chunk_size=4, seen=shown.append)
    for i, p in enumerate(weights):
        of_each = torch.stack([g[i] for g in grads])
        torch.testing.assert_close(p.grad, of_each.mean(0))
        torch.testing.assert_close(p.squared_grad, of_each.square().mean(0))
    torch.testing.assert_close(torch.cat(shown), model(X).detach())
    assert not torch.cat(shown).requires_grad
    assert all(not module._forward_hooks for module in model.modules())


def test_layers_take_no_part_in_other_passes():
    """An exception in the loss leaves no hook behind."""
    model = network()

    def broken(_outputs, _target):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        per_example_backward(model, broken, X, Y)
    assert all(not module._forward_hooks for module in model.modules())


def test_examples_that_mix_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).double()
    with pytest.raises((RuntimeError, ValueError)):
        per_example_backward(model, nn.functional.cross_entropy, X, Y)
