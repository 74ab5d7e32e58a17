"""At equal weights the networks give the logits of the paper's released code."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.models import MODELS
from experiments.models.frn import FilterResponseNorm

# Measured once on the released networks: float64, with weights rounded to float32 before. Weights and images
# depend only on the kind and the shape of a layer, so that names and order of the layers do not matter:
# another input of a layer, another padding or an activation more shows in every logit.
LOGITS = json.loads((Path(__file__).parent / "released_logits.json").read_text())


def wave(shape: torch.Size | tuple[int, ...], step: float, start: float = 0.0) -> Tensor:
    angles = torch.arange(math.prod(shape), dtype=torch.float64) * step + start
    return angles.cos().reshape(shape)


@torch.no_grad()
def set_weights(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            weight.copy_(wave(weight.shape, 0.7, 0.3) * math.sqrt(2 / weight[0].numel()))
            if module.bias is not None:
                module.bias.copy_(0.05 * wave(module.bias.shape, 1.0))
        elif isinstance(module, FilterResponseNorm):
            shape = module.gamma.shape
            module.gamma.copy_(1 + 0.1 * wave(shape, 1.3))
            module.beta.copy_(0.1 * wave(shape, 1.0, -math.pi / 2))
            module.tau.copy_(-0.2 + 0.05 * wave(shape, 2.1))


@pytest.mark.parametrize("case", LOGITS)
def test_logits_are_those_of_the_released_network(case):
    name, classes, side = case.split("/")
    network = MODELS[name].build(int(classes), side=int(side))
    set_weights(network)
    network.double().eval()
    with torch.no_grad():
        logits = network(wave((2, 3, int(side), int(side)), 0.01))
    first, last = (torch.tensor(row, dtype=torch.float64) for row in LOGITS[case].values())
    torch.testing.assert_close(logits[0, :5], first, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(logits[1, -5:], last, rtol=1e-8, atol=1e-12)
