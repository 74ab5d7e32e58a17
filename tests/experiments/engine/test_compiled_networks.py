"""Networks that are compiled one after the other in one worker, as on a GPU."""

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from baselines.mc_dropout import Masks
from experiments.engine.network import compiled
from experiments.models import MODELS

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    """Without what other tests have compiled, and with torch's own options."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True, recompile_limit=8):
        yield
    torch._dynamo.reset()


def network() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet20"].build(10, in_channels=1, width=2, side=8)


def of_plain() -> Tensor:
    return compiled(network(), backend="eager")(IMAGES)


def of_masked() -> list[Tensor]:
    """Without its masks, and two draws of them."""
    model = network()
    masks = Masks(model, model.dropout_sites(), rate=0.3)
    forward = compiled(model, backend="eager")
    outputs = [forward(IMAGES)]
    with masks.on(torch.Generator().manual_seed(1)):
        return [*outputs, forward(IMAGES), forward(IMAGES)]


@torch.no_grad()
def test_masks_are_those_of_the_network_whatever_was_compiled_before():
    """All have the same weights, so that only masks make outputs differ."""
    expected = network()(IMAGES)
    for _ in range(2):
        torch.testing.assert_close(of_plain(), expected)
        without, first, second = of_masked()
        torch.testing.assert_close(without, expected)
        assert not torch.allclose(first, expected)
        assert not torch.allclose(second, expected)
        assert not torch.allclose(first, second)


class Tiny(nn.Module):
    """Compiled at once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, images: Tensor) -> Tensor:
        return images.sum() * self.weight


def test_worker_may_see_more_widths_than_torch_compiles_by_default():
    """Beyond its limit PyTorch warns in a log, and goes on uncompiled."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in range(2, 13):
            assert compiled(Tiny(width), backend="eager")(IMAGES).shape == (width,)
