"""accelerate: prepare, accumulate, clip_grad_norm_, save_state and load_state."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ivon

STEPS, EPOCHS = 12, 4
MAX_NORM = 0.3


@pytest.fixture
def accelerator(library):
    """A factory; accelerate keeps its state for the process, and gives it up afterwards."""
    accelerate = library("accelerate")
    yield lambda **options: accelerate.Accelerator(cpu=True, **options)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepared(task, accelerator, batch=16):
    model = task.model()
    optimizer = task.optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    data = DataLoader(TensorDataset(task.inputs, task.labels), batch_size=batch)
    return optimizer, accelerator.prepare(model, optimizer, data, scheduler)


def plain(task, draws=1):
    model = task.model()
    optimizer = task.optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    clip = nn.utils.clip_grad_norm_
    task.train(
        model,
        optimizer,
        draws=draws,
        before_step=lambda: clip(model.parameters(), MAX_NORM),
        after_step=scheduler.step,
    )
    return optimizer


def epochs(task, accelerator, parts, count):
    model, optimizer, data, scheduler = parts
    for _ in range(count):
        for batch in data:
            with ivon.sampled_params(optimizer, train=True):
                accelerator.backward(task.loss(model, batch))
            accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def test_prepared_training_equals_the_plain_loop_and_resumes(task, accelerator, tmp_path):
    here = accelerator()
    optimizer, parts = prepared(task, here)
    assert ivon.wrappers.find_ivon(parts[1]) is optimizer is not parts[1]
    epochs(task, here, parts, EPOCHS // 2)
    here.save_state(str(tmp_path))
    epochs(task, here, parts, EPOCHS - EPOCHS // 2)
    task.assert_same(optimizer, plain(task))
    task.assert_learned(parts[0], optimizer, at_most=0.9)  # clipped

    other = accelerator()
    resumed, parts = prepared(task, other)
    other.load_state(str(tmp_path))
    epochs(task, other, parts, EPOCHS - EPOCHS // 2)
    task.assert_same(resumed, optimizer)


def accumulated_epochs(task, accelerator, parts, count):
    """With a draw for each micro-batch; accelerate divides its loss by their number."""
    model, optimizer, data, scheduler = parts
    for _ in range(count):
        for batch in data:
            with accelerator.accumulate(model):
                with ivon.sampled_params(optimizer, train=True, reduction="sum"):
                    accelerator.backward(task.loss(model, batch))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


def test_accumulate_with_draws_of_their_own_and_clipping_equals_the_plain_loop_and_resumes(
    task, accelerator, tmp_path
):
    here = accelerator(gradient_accumulation_steps=2)
    optimizer, parts = prepared(task, here, batch=8)
    accumulated_epochs(task, here, parts, EPOCHS // 2)
    here.save_state(str(tmp_path))
    accumulated_epochs(task, here, parts, EPOCHS - EPOCHS // 2)
    task.assert_same(optimizer, plain(task, draws=2))
    task.assert_learned(parts[0], optimizer, at_most=0.9)  # clipped

    other = accelerator(gradient_accumulation_steps=2)
    resumed, parts = prepared(task, other, batch=8)
    other.load_state(str(tmp_path))
    accumulated_epochs(task, other, parts, EPOCHS - EPOCHS // 2)
    task.assert_same(resumed, optimizer)


def test_accumulate_with_losses_multiplied_by_the_number_of_micro_batches(task, accelerator):
    """The other way to undo accelerate's division."""
    here = accelerator(gradient_accumulation_steps=2)
    ivon_inside, (model, optimizer, data, _) = prepared(task, here, batch=8)
    for _ in range(EPOCHS):
        for batch in data:
            with here.accumulate(model):
                with ivon.sampled_params(optimizer, train=True):
                    here.backward(task.loss(model, batch) * here.gradient_accumulation_steps)
                optimizer.step()
                optimizer.zero_grad()
    by_hand = task.model()
    by_hand_optimizer = task.optimizer(by_hand)
    task.train(by_hand, by_hand_optimizer, draws=2)
    task.assert_same(ivon_inside, by_hand_optimizer)
    task.assert_learned(model, ivon_inside)


def test_accumulate_within_one_draw_and_clipping(task64, accelerator):
    """Gradients add up as without IVON, so that clipping sees their sum."""
    task, here = task64, accelerator(gradient_accumulation_steps=2)
    ivon_inside, (model, optimizer, data, scheduler) = prepared(task, here, batch=8)
    for _ in range(EPOCHS):
        batches = iter(data)
        for first, second in zip(batches, batches, strict=True):
            with ivon.sampled_params(optimizer, train=True):
                for batch in (first, second):
                    with here.accumulate(model):
                        here.backward(task.loss(model, batch))
            here.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
    task.assert_same(ivon_inside, plain(task), rtol=1e-9, atol=1e-12)  # another order of summation
    task.assert_learned(model, ivon_inside, at_most=0.9)  # clipped
