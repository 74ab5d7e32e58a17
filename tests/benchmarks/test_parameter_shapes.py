"""The shapes that stand for a network are those of the network."""

import pytest
import torch
from torch import nn

from benchmarks import shapes
from benchmarks._gpt2 import GPT2, Size
from benchmarks.shapes import shapes_of, total


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 274_042),
        ("resnet50", 25_583_592),
        ("gpt2-small", 124_373_760),
        ("gpt2-medium", 354_599_936),
    ],
)
def test_counts_are_the_papers(name: str, count: int) -> None:
    assert total(shapes_of(name)) == count


def test_every_name_has_shapes() -> None:
    assert all(shapes_of(name) for name in shapes.NAMES)
    with pytest.raises(ValueError, match=r"shapes must be one of resnet20, .*, got 'vgg'"):
        shapes_of("vgg")


def test_formula_is_that_of_the_module() -> None:
    with torch.device("meta"):
        network = GPT2(Size())
    assert [tuple(p.shape) for p in network.parameters()] == shapes_of("gpt2-small")


def test_gpt2_sees_no_future() -> None:
    torch.manual_seed(0)
    size = Size(blocks=2, heads=2, width=8, context=6, vocabulary=11)
    network = GPT2(size)
    seen: list[torch.Tensor] = []
    network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    text = torch.randint(11, (3, 6))
    changed = text.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    with torch.no_grad():
        loss = network(text, text)
        network(changed, text)
    torch.testing.assert_close(seen[0][:, :4], seen[1][:, :4])
    assert not torch.allclose(seen[0][:, 4:], seen[1][:, 4:])
    uniform = torch.tensor(11.0).log()  # weights of 0.02 predict next to nothing
    torch.testing.assert_close(loss, uniform, rtol=0, atol=0.1)


def test_gpt2_ties_its_output_to_the_tokens() -> None:
    network = GPT2(Size(blocks=1, heads=1, width=4, context=3, vocabulary=5))
    network(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)).backward()
    assert isinstance(network.tokens, nn.Embedding)
    assert network.tokens.weight.grad is not None
    assert network.tokens.weight.grad.abs().sum(dim=1).gt(0).all()  # tokens that occur nowhere, too
