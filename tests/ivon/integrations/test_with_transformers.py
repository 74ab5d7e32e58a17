"""Hugging Face's Trainer: two ways to train at posterior draws, gradient accumulation, clipping, resuming."""

import re

import pytest
import torch
from torch import nn

import ivon

STEPS, EPOCHS = 12, 4
CHECKPOINT = 5  # in the middle of an epoch
MAX_NORM = 0.3


class Classifier(nn.Module):
    """The task's model with the interface that Trainer expects."""

    def __init__(self, task):
        super().__init__()
        self.task, self.layers = task, task.model()

    def forward(self, inputs, labels):
        return {"loss": self.task.loss(self.layers, (inputs, labels))}


@pytest.fixture(scope="module")
def transformers(library):
    library("accelerate")
    return library("transformers")


def sampling_trainer(transformers):
    """Every micro-batch at a draw of its own; Trainer has divided its loss by their number."""

    class IVONTrainer(transformers.Trainer):
        def training_step(self, *args, **kwargs):
            with ivon.sampled_params(self.optimizer, train=True, reduction="sum"):
                return super().training_step(*args, **kwargs)

    return {}, IVONTrainer


def sampling_callback(transformers):
    """One draw for each optimizer step, whose micro-batches add up their gradients as Trainer expects."""

    class SampledParams(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer, **kwargs):
            self.draw = ivon.sampled_params(optimizer, train=True)
            self.draw.__enter__()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self.draw.__exit__(None, None, None)

    return {"callbacks": [SampledParams()]}, transformers.Trainer


def fit(transformers, task, way, folder, *, accumulate=1, resume_from=None):
    model = Classifier(task)
    optimizer = task.optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    options, trainer_class = way(transformers)
    arguments = transformers.TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16 // accumulate,
        gradient_accumulation_steps=accumulate,
        train_sampling_strategy="sequential",
        max_grad_norm=MAX_NORM,
        save_steps=CHECKPOINT,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    data = [{"inputs": x, "labels": y} for x, y in zip(task.inputs, task.labels, strict=True)]
    trainer = trainer_class(
        model, arguments, train_dataset=data, optimizers=(optimizer, scheduler), **options
    )
    trainer.train(resume_from_checkpoint=resume_from)
    assert trainer.state.global_step == STEPS
    return model.layers, optimizer


def plain(task, accumulate, draws=1):
    """The same by hand, with one draw for all micro-batches or one for each."""
    model = task.model()
    optimizer = task.optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    for k in range(STEPS):
        inputs, labels = task.batch(k)
        parts = list(zip(inputs.chunk(accumulate), labels.chunk(accumulate), strict=True))
        for i in range(draws):
            of_draw = parts[i * accumulate // draws : (i + 1) * accumulate // draws]
            with optimizer.sampled_params(train=True):
                for part in of_draw:
                    (task.loss(model, part) / len(of_draw)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()
    return optimizer


@pytest.mark.parametrize(
    ("way", "accumulate"), [(sampling_trainer, 1), (sampling_trainer, 2), (sampling_callback, 2)]
)
def test_trainer_equals_the_plain_loop_and_resumes(transformers, task, tmp_path, way, accumulate):
    model, optimizer = fit(transformers, task, way, tmp_path / "whole", accumulate=accumulate)
    task.assert_learned(model, optimizer, at_most=0.9)  # clipped
    task.assert_same(optimizer, plain(task, accumulate, accumulate if way is sampling_trainer else 1))
    middle = tmp_path / "whole" / f"checkpoint-{CHECKPOINT}"
    _, resumed = fit(
        transformers, task, way, tmp_path / "resumed", accumulate=accumulate, resume_from=str(middle)
    )
    task.assert_same(resumed, optimizer)


def test_without_a_draw_the_first_step_says_what_is_missing(transformers, task, tmp_path):
    with pytest.raises(RuntimeError, match="sampled_params"):
        fit(transformers, task, lambda transformers: ({}, transformers.Trainer), tmp_path)


def test_trainer_that_makes_the_optimizer_leaves_weights_without_a_prior(transformers, task, tmp_path):
    """And is told how to do without."""
    arguments = transformers.TrainingArguments(tmp_path, use_cpu=True, report_to="none", weight_decay=0.01)
    model = Classifier(task)
    trainer = transformers.Trainer(
        model, arguments, optimizer_cls_and_kwargs=(ivon.IVON, {"lr": 1.0, "ess": 300.0})
    )
    with pytest.warns(UserWarning, match=r"weight_decay is 0 in parameter group 1: .*Trainer") as seen:
        trainer.create_optimizer()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.01, 0.0]
    (argument,) = re.findall(r"write (optimizers=.*) instead", str(seen[0].message))
    argument = argument.replace("...", "lr=1.0, ess=300.0")
    options = eval(f"dict({argument})", {"ivon": ivon, "model": model})
    trainer = transformers.Trainer(model, arguments, **options)
    trainer.create_optimizer_and_scheduler(num_training_steps=STEPS)
    assert all(group["weight_decay"] > 0 for group in trainer.optimizer.param_groups)
    assert trainer.lr_scheduler.optimizer is trainer.optimizer
