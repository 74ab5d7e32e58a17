"""Activation checkpointing: what is computed again in the backward pass is computed at the same draw."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

STEPS = 12


class Checkpointed(nn.Module):
    """The task's model, all of whose activations are computed twice; counts the passes of a layer."""

    def __init__(self, model, use_reentrant):
        super().__init__()
        self.model, self.use_reentrant, self.weights = model, use_reentrant, []
        model[0].register_forward_hook(lambda *_: self.weights.append(model[0].weight.detach().clone()))

    def forward(self, inputs):
        if self.use_reentrant:
            inputs = inputs.clone().requires_grad_()  # without which it has nothing to differentiate
        return checkpoint(self.model, inputs, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_recomputation_sees_the_same_draw(task, use_reentrant, dropout):
    between = [nn.Dropout(0.2)] if dropout else []
    plain = task.model(*between)
    plain_optimizer = task.optimizer(plain)
    torch.manual_seed(5)
    task.train(plain, plain_optimizer)

    model = task.model(*between)
    optimizer = task.optimizer(model)
    wrapped = Checkpointed(model, use_reentrant)
    torch.manual_seed(5)
    task.train(wrapped, optimizer)
    assert len(wrapped.weights) == 2 * STEPS
    assert all(map(torch.equal, wrapped.weights[::2], wrapped.weights[1::2]))
    task.assert_same(optimizer, plain_optimizer)
    task.assert_learned(model.eval(), optimizer)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_segments_and_nested_checkpoints(task, use_reentrant):
    model = task.model()
    optimizer = task.optimizer(model)

    def forward(inputs):
        inputs = inputs.clone().requires_grad_()
        return checkpoint(inner, inputs, use_reentrant=use_reentrant)

    def inner(inputs):
        return checkpoint_sequential(model, 2, inputs, use_reentrant=use_reentrant)

    task.train(forward, optimizer)
    task.assert_same(optimizer, task.trained()[1])
    task.assert_learned(model, optimizer)


def test_saved_tensors_kept_elsewhere(task):
    """Activations offloaded to host memory, as `save_on_cpu` does; a saved weight is a copy of the draw."""
    model = task.model()
    optimizer = task.optimizer(model)

    def forward(inputs):
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
            return model(inputs)

    task.train(forward, optimizer)
    task.assert_same(optimizer, task.trained()[1])
