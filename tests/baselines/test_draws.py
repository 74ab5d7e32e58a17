"""Keyed noise, flat vectors, and weights that come back bit for bit."""

import pytest
import torch
from torch import nn

from baselines.draws import flat, keyed_generator, replaced, shaped


def test_keys_decide_the_stream():
    def numbers(*key: object) -> torch.Tensor:
        return torch.rand(4, generator=keyed_generator(torch.device("cpu"), *key))

    keys = [(1, "step", 12), (11, "step", 2), (1, "step", 13), (1, "stop", 12), (2**32 + 1, "step", 12)]
    drawn = [numbers(*key) for key in keys]
    assert torch.equal(numbers(*keys[0]), drawn[0])
    assert len({tuple(d.tolist()) for d in drawn}) == len(keys)


def test_shaped_is_the_inverse_of_flat():
    tensors = [torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(5), torch.randn(())]
    vector = flat(tensors)
    assert vector.shape == (48 + 5 + 1,)
    assert vector[:3].tolist() == [*tensors[0][0, 0].flatten()[:3].tolist()]
    assert all(torch.equal(a, b) for a, b in zip(shaped(vector, tensors), tensors, strict=True))
    vector.zero_()
    assert tensors[1].any()  # a copy


def test_weights_are_replaced_and_come_back():
    layer = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    params = list(layer.parameters())
    before, strides = [p.detach().clone() for p in params], [p.stride() for p in params]
    vector = torch.arange(52.0)
    with replaced(params, vector):
        assert torch.equal(flat(params), vector)
    with pytest.raises(ZeroDivisionError), replaced(params, vector):
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert [p.stride() for p in params] == strides


def test_autocast_sees_the_replaced_weights():
    """Inside autocast 16-bit copies of weights are kept: those of the weights before must not be used."""
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        usual = layer(x)
        with replaced(list(layer.parameters()), torch.zeros(8)):
            assert torch.equal(layer(x), torch.zeros_like(usual))
        assert torch.equal(layer(x), usual)
