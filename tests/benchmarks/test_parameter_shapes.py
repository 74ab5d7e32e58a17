"""The shapes that stand for a network are those of the network."""

import pytest

from benchmarks import shapes
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
