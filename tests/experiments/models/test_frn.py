"""Filter response norm: the fast form is the formula, in every way autograd can look at it."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from experiments.models import MODELS, frn_cpu
from experiments.models.frn import FilterResponseNorm, filter_response_norm, filter_response_norm_reference

FORMATS = (torch.contiguous_format, torch.channels_last)


def parameters(channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """gamma, beta and tau away from their start, so that each matters; one gamma is negative."""
    draw = torch.Generator().manual_seed(1)
    gamma, beta, tau = (torch.randn(channels, generator=draw, dtype=dtype) * 0.5 for _ in range(3))
    gamma = gamma.abs() + 0.5
    gamma[0] *= -1
    return [p.requires_grad_() for p in (gamma, beta, tau)]


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradients(function, x: Tensor, weights: list[Tensor], dy: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = function(x, *weights)
    return [y.detach(), *torch.autograd.grad(y, [x, *weights], dy)]


def assert_all_close(ours: list[Tensor], theirs: list[Tensor], relative: float) -> None:
    """Largest difference against the largest entry: a sum over a batch is no more exact than that."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= relative * b.abs().max()


def test_start_values_and_count():
    layer = FilterResponseNorm(7)
    assert torch.equal(layer.gamma, torch.ones(7))
    assert torch.equal(layer.beta, torch.zeros(7))
    assert torch.equal(layer.tau, torch.zeros(7))
    assert {name for name, _ in layer.named_parameters()} == {"gamma", "beta", "tau"}


def test_formula_in_numpy():
    x = images(3, 4, 5, 6, dtype=torch.float64)
    weights = parameters(4, torch.float64)
    gamma, beta, tau = (p.detach().numpy()[:, None, None] for p in weights)
    a = x.numpy()
    expected = np.maximum(gamma * a / np.sqrt((a**2).mean((2, 3), keepdims=True) + 1e-6) + beta, tau)
    for function in (filter_response_norm, filter_response_norm_reference):
        np.testing.assert_allclose(function(x, *weights).detach().numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(50, 16, 32, 32), (7, 3, 8, 8), (1, 5, 2, 1), (2, 64, 3, 5)])
def test_equals_reference(shape, memory_format):
    x = images(*shape).contiguous(memory_format=memory_format)
    dy = images(*shape, seed=2).contiguous(memory_format=memory_format)
    ours = value_and_gradients(filter_response_norm, x, parameters(shape[1]), dy)
    theirs = value_and_gradients(filter_response_norm_reference, x, parameters(shape[1]), dy)
    assert_all_close(ours, theirs, 3e-6)  # 25 float32 roundings; sums over up to 51200 numbers included
    assert ours[0].is_contiguous(memory_format=memory_format)


def test_blocks_do_not_change_the_numbers(monkeypatch):
    """Block borders lie between examples; only the order of summation may differ."""
    x, dy = images(9, 4, 6, 6), images(9, 4, 6, 6, seed=2)
    whole = value_and_gradients(filter_response_norm, x, parameters(4), dy)
    monkeypatch.setattr(frn_cpu, "CACHE_BYTES", 1)
    single = value_and_gradients(filter_response_norm, x, parameters(4), dy)
    assert_all_close(single, whole, 1e-6)


def test_gradient_that_is_expanded_from_a_mean():
    """Global average pooling hands back a gradient with stride 0."""
    x = images(4, 3, 5, 5)
    dy = images(4, 3, 1, 1, seed=2).expand_as(x)
    ours = value_and_gradients(filter_response_norm, x, parameters(3), dy)
    assert_all_close(ours, value_and_gradients(filter_response_norm_reference, x, parameters(3), dy), 3e-6)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_first_and_second_derivatives(memory_format):
    x = images(2, 3, 2, 3, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    weights = parameters(3, torch.float64)
    assert torch.autograd.gradcheck(filter_response_norm, (x, *weights))
    assert torch.autograd.gradgradcheck(filter_response_norm, (x, *weights))


def test_at_the_threshold_the_gradient_goes_to_the_threshold():
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    layer = FilterResponseNorm(1)
    layer(x).sum().backward()
    assert x.grad is not None and layer.beta.grad is not None and layer.tau.grad is not None
    assert x.grad.abs().max() == 0
    assert layer.beta.grad.item() == 0
    assert layer.tau.grad.item() == 4


def test_autocast_takes_statistics_in_float32():
    x = images(4, 3, 16, 16).bfloat16() * 300  # squares summed in bfloat16 would be off by percents
    dy = images(4, 3, 16, 16, seed=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = value_and_gradients(filter_response_norm, x, parameters(3), dy)
    exact = value_and_gradients(filter_response_norm_reference, x.float(), parameters(3), dy.float())
    assert ours[0].dtype == ours[1].dtype == torch.bfloat16
    assert_all_close([t.float() for t in ours[:2]], exact[:2], 2**-8)  # one rounding to bfloat16
    assert_all_close(ours[2:], exact[2:], 1e-5)  # gradients of the weights are never rounded


def test_network_under_autocast():
    network = MODELS["resnet20"].build(10, width=4, side=8, in_channels=1)
    with torch.autocast("cpu", torch.bfloat16):
        network(images(3, 1, 8, 8)).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
def test_per_example_gradients_equal_a_loop(model):
    torch.manual_seed(0)
    network = MODELS[model].build(10, in_channels=1, width=4, side=8).double()
    weights = dict(network.named_parameters())
    x, labels = images(4, 1, 8, 8, dtype=torch.float64), torch.tensor([3, 1, 4, 1])

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(
            functional_call(network, weights, (image[None],)), label[None]
        )

    together = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, labels)
    for i in range(len(x)):
        alone = torch.autograd.grad(loss(weights, x[i], labels[i]), list(weights.values()))
        assert_all_close(
            [g[i] for g in together.values()], list(alone), 1e-9
        )  # float64 roundings through up to 20 layers


def test_vmap_over_weights_and_without_a_batch_axis():
    x = images(2, 3, 4, 4, dtype=torch.float64)
    stacks = [torch.stack((p, p + 0.1)).detach() for p in parameters(3, torch.float64)]
    ensemble = vmap(filter_response_norm, in_dims=(None, 0, 0, 0))(x, *stacks)
    singles = vmap(filter_response_norm, in_dims=(0, None, None, None))(x, *(s[1] for s in stacks))
    expected = filter_response_norm_reference(x, *(s[1] for s in stacks))
    torch.testing.assert_close(ensemble[1], expected)
    torch.testing.assert_close(singles, expected)

    def loss(x: Tensor, *weights: Tensor) -> Tensor:
        return filter_response_norm(x, *weights).square().sum()

    gradients = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(None, 0, 0, 0))(x, *stacks)
    alone = grad(loss, argnums=(0, 1, 2, 3))(x, *(s[1] for s in stacks))
    assert_all_close([g[1] for g in gradients], list(alone), 1e-12)


def test_compiled_equals_eager():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), FilterResponseNorm(4))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x, weights = images(2, 3, 6, 6), list(network.parameters())
    eager_y, compiled_y = network(x), compiled(x)
    torch.testing.assert_close(compiled_y, eager_y, rtol=0, atol=1e-6)
    eager = torch.autograd.grad(eager_y.square().sum(), weights)
    ours = torch.autograd.grad(compiled_y.square().sum(), weights)
    assert_all_close(list(ours), list(eager), 1e-5)
