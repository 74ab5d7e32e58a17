"""The schedule against PyTorch's schedulers, and the numbers that the paper's runs have."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from experiments.engine.schedule import lr_factor


@pytest.mark.parametrize(
    ("epochs", "warmup", "cosine"), [(200, 5, 200), (200, 5, 195), (30, 1, 30), (10, 0, 10), (7, 3, 4)]
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_equals_torchs_linear_warm_up_and_cosine(epochs, warmup, cosine):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    annealing = CosineAnnealingLR(optimizer, T_max=cosine)
    scheduler = annealing
    if warmup:
        rising = LinearLR(optimizer, start_factor=0.2, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [rising, annealing], milestones=[warmup])
    for epoch in range(epochs):
        ours = lr_factor(epoch, warmup_epochs=warmup, cosine_epochs=cosine)
        # torch multiplies step by step, which collects rounding errors over 200 epochs.
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_cifar_ends_above_zero():
    """200 epochs, 5 of them warm-up, and a cosine of 200: the released code's last rate."""
    assert lr_factor(199, warmup_epochs=5, cosine_epochs=200) == pytest.approx(0.0022, abs=5e-5)
    assert lr_factor(5, warmup_epochs=5, cosine_epochs=200) == 1.0


def test_imagenets_warm_up():
    factors = [lr_factor(epoch, warmup_epochs=5, cosine_epochs=195) for epoch in range(6)]
    assert factors == pytest.approx([0.2, 0.36, 0.52, 0.68, 0.84, 1.0])


def test_without_warm_up_it_starts_at_the_peak():
    assert lr_factor(0, warmup_epochs=0, cosine_epochs=10) == 1.0
