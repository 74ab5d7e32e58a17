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
