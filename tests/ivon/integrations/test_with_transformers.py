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


def test_language_model_whose_losses_are_shares_of_all_tokens(transformers, tmp_path):
    """Trainer tells such a model how many tokens the micro-batches have together; here weights do."""
    rng = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(1, 12, (6,), generator=rng)} for _ in range(16)]
    for i, example in enumerate(data):
        example["labels"] = example["input_ids"].clone()
        example["labels"][i % 4 + 1 :] = -100  # as of padding

    def make():
        torch.manual_seed(1)
        config = transformers.GPT2Config(
            vocab_size=12, n_positions=6, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
        model = transformers.GPT2LMHeadModel(config)
        optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=1e4, beta2=0.9)
        optimizer.seed(3)
        return model, optimizer

    model, optimizer = make()
    arguments = transformers.TrainingArguments(
        tmp_path,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        max_grad_norm=MAX_NORM,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    _, trainer_class = sampling_trainer(transformers)
    trainer_class(model, arguments, train_dataset=data, optimizers=(optimizer, constant)).train()

    by_hand, expected = make()
    for first in (0, 8, 0, 8):
        for begin in (first, first + 4):
            part = {
                name: torch.stack([example[name] for example in data[begin : begin + 4]]) for name in data[0]
            }
            tokens = int((part["labels"][:, 1:] != -100).sum())
            with expected.sampled_params(train=True, weight=tokens):
                by_hand(**part).loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), MAX_NORM)
        expected.step()
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            optimizer.state[p]["hess"], expected.state[q]["hess"], rtol=1e-4, atol=1e-5
        )


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
