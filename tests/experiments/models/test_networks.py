"""The networks: weights counted exactly, shapes, and training on images smaller than they were made for."""

import subprocess
import sys

import pytest
import torch

from experiments.models import MODELS
from experiments.models.stride import convolution, projection

# Released code of the paper, counted at 10, 100 and 200 classes; 200 is TinyImageNet with 64 pixels.
COUNTS = {
    "resnet20": (274042, 279892, 286392),
    "preresnet110": (3899146, 3907876, 3917576),
    "resnet18": (11178762, 11224932, 11583432),
    "densenet121": (1016278, 1050928, 1319828),
}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_count_is_the_papers(name):
    for classes, side, expected in zip((10, 100, 200), (32, 32, 64), COUNTS[name], strict=True):
        with torch.device("meta"):
            assert count(MODELS[name].build(classes, side=side)) == expected


def test_count_of_resnet50_for_imagenet():
    with torch.device("meta"):
        assert count(MODELS["resnet50"].build(1000, side=224)) == 25583592


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", [32, 64])
def test_logits_of_colour_images(name, side):
    network = MODELS[name].build(17, width=4, side=side)
    assert network(torch.zeros(1, 3, side, side)).shape == (1, 17)


@pytest.mark.parametrize("name", MODELS)
def test_narrow_network_learns_small_grey_images(name):
    """At 8x8 pixels gradient still reaches the first layer; none would where FRN sees single pixels."""
    torch.manual_seed(0)
    network = MODELS[name].build(10, in_channels=1, width=4, side=8)
    logits = network(torch.randn(5, 1, 8, 8))
    torch.nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    assert logits.shape == (5, 10)
    for parameter_name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter_name
    first = next(network.parameters())
    assert first.grad is not None and first.grad.abs().max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_build_defaults(name):
    assert MODELS[name].name == name
    with torch.device("meta"):
        default = MODELS[name].build(10)
        explicit = MODELS[name].build(10, width=MODELS[name].default_width, in_channels=3, side=32)
    assert [p.shape for p in default.parameters()] == [p.shape for p in explicit.parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_memory_format_does_not_change_the_network(name):
    torch.manual_seed(0)
    network = MODELS[name].build(10, in_channels=1, width=4, side=8).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    plain = network(x)
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-9, atol=1e-9)


def test_registry_does_not_import_torch():
    check = "import sys, experiments.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("inputs", [1, 3, 7, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_projections_of_narrow_maps_are_strided_convolutions(inputs, bias):
    """Also in the memory format and with the gradients with which PyTorch's own crashes on some CPUs."""
    shortcut = projection(inputs, 6, 2, bias=bias).to(memory_format=torch.channels_last)
    x = torch.randn(50, inputs, 9, 9).to(memory_format=torch.channels_last).requires_grad_()
    y = shortcut(x)
    y.square().mean().backward()
    weight = next(shortcut.parameters()).detach().clone().contiguous().requires_grad_()
    (*_, last) = shortcut.parameters()
    plain = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected = torch.nn.functional.conv2d(plain, weight, last if bias else None, stride=2)
    expected.square().mean().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, plain.grad)
    torch.testing.assert_close(
        next(shortcut.parameters()).grad, weight.grad, rtol=1e-4, atol=1e-6
    )  # long sums


@pytest.mark.parametrize("side", range(1, 10))
def test_a_halving_convolution_gives_as_many_pixels_as_its_shortcut(side):
    x, half = torch.randn(2, 8, side, side), (side + 1) // 2
    assert convolution(8, 4, 2)(x).shape == projection(8, 4, 2)(x).shape == (2, 4, half, half)


def test_a_halving_convolution_begins_at_the_first_pixel():
    """Its window starts where its shortcut looks: padding lies below and on the right alone."""
    halving = convolution(1, 1, 2)
    weight, bias = halving.parameters()
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]))
        bias.zero_()
    x = torch.randn(1, 1, 6, 6)
    torch.testing.assert_close(halving(x), x[:, :, ::2, ::2])
