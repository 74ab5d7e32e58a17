"""Lightning Fabric: accumulation with a draw for each micro-batch, clipping, saving and loading."""

import pytest
import torch
from torch import nn

import ivon

# On a machine with SLURM, in a class of its own that the process which collects the warnings cannot import.
pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command is available")

STEPS, MICRO_BATCHES = 12, 2
LIMITS = {"norm": {"max_norm": 0.3}, "values": {"clip_val": 0.05}}


@pytest.fixture(scope="module")
def fabric(library):
    return library("lightning.fabric").Fabric(accelerator="cpu", devices=1)


def prepared(task, fabric):
    model = task.model()
    inside = task.optimizer(model)
    return inside, *fabric.setup(model, inside)


def train(task, fabric, model, optimizer, steps, limit):
    """Fabric divides no losses."""
    for k in steps:
        inputs, labels = task.batch(k)
        parts = zip(inputs.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True)
        for i, part in enumerate(parts):
            with (
                fabric.no_backward_sync(model, enabled=i + 1 < MICRO_BATCHES),
                ivon.sampled_params(optimizer, train=True),
            ):
                fabric.backward(task.loss(model, part))
        fabric.clip_gradients(model, optimizer, **LIMITS[limit])
        optimizer.step()
        optimizer.zero_grad()


def plain(task, limit):
    model = task.model()
    optimizer = task.optimizer(model)

    def clip():
        if limit == "norm":
            nn.utils.clip_grad_norm_(model.parameters(), LIMITS[limit]["max_norm"])
        else:
            nn.utils.clip_grad_value_(model.parameters(), LIMITS[limit]["clip_val"])

    task.train(model, optimizer, draws=MICRO_BATCHES, before_step=clip)
    return optimizer


@pytest.mark.parametrize("limit", LIMITS)
def test_accumulation_and_clipping_equal_the_plain_loop_and_resume(task, fabric, tmp_path, limit):
    inside, model, optimizer = prepared(task, fabric)
    assert ivon.wrappers.find_ivon(optimizer) is inside
    train(task, fabric, model, optimizer, range(STEPS // 2), limit)
    fabric.save(tmp_path / "half", {"model": model, "optimizer": optimizer})
    train(task, fabric, model, optimizer, range(STEPS // 2, STEPS), limit)
    task.assert_same(inside, plain(task, limit))
    task.assert_learned(model, inside, at_most=1.0)  # clipped

    resumed, model, optimizer = prepared(task, fabric)
    torch.manual_seed(9)
    fabric.load(tmp_path / "half", {"model": model, "optimizer": optimizer})
    train(task, fabric, model, optimizer, range(STEPS // 2, STEPS), limit)
    task.assert_same(resumed, inside)
