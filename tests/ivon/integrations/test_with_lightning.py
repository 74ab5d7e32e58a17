"""Lightning: automatic optimisation calls step(closure), which samples by itself; manual optimisation."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ivon

# On a machine with SLURM, in a class of its own that the process which collects the warnings cannot import.
pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command is available")

STEPS, EPOCHS = 12, 4
MAX_NORM = 0.3


@pytest.fixture(scope="module")
def lightning(library):
    return library("lightning.pytorch")


def module(lightning, task, *, manual=False, own_draws=False, **options):
    """The task's model as a LightningModule."""

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = task.model()
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            return task.loss(self.layers, batch)

        def configure_optimizers(self):
            self.ivon = task.optimizer(self.layers, **options)
            return [self.ivon], [torch.optim.lr_scheduler.ExponentialLR(self.ivon, gamma=0.9)]

    class ClassifierWithDraws(Classifier):
        """Every micro-batch at a draw of its own; Lightning has divided its loss by their number."""

        draw = contextlib.ExitStack()

        def training_step(self, batch, batch_idx):
            self.draw.enter_context(ivon.sampled_params(self.optimizers(), train=True, reduction="sum"))
            return super().training_step(batch, batch_idx)

        def on_after_backward(self):
            self.draw.close()

    class ManualClassifier(Classifier):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            with ivon.sampled_params(optimizer, train=True, generator=noise(self.global_step)):
                self.manual_backward(task.loss(self.layers, batch))
            optimizer.step()
            optimizer.zero_grad()

        def on_train_epoch_end(self):
            self.lr_schedulers().step()

    if own_draws:
        return ClassifierWithDraws()
    return ManualClassifier() if manual else Classifier()


def fit(lightning, task, model, *, epochs=EPOCHS, batch=16, resume_from=None, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = DataLoader(TensorDataset(task.inputs, task.labels), batch_size=batch)
    trainer.fit(model, data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    return trainer


def plain(task, *, clip=False, draws=1, **options):
    """The same by hand; the learning rate is lowered after each epoch."""
    model = task.model()
    optimizer = task.optimizer(model, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS // EPOCHS, (epoch + 1) * STEPS // EPOCHS)
        before_step = (
            (lambda: nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)) if clip else (lambda: None)
        )
        task.train(model, optimizer, steps, draws=draws, before_step=before_step)
        scheduler.step()
    return optimizer


def test_automatic_optimisation_with_clipping_equals_the_plain_loop_and_resumes(lightning, task, tmp_path):
    model = module(lightning, task)
    fit(lightning, task, model, gradient_clip_val=MAX_NORM)
    task.assert_learned(model.layers, model.ivon, at_most=0.9)  # clipped
    task.assert_same(model.ivon, plain(task, clip=True))

    half = module(lightning, task)
    trainer = fit(lightning, task, half, epochs=EPOCHS // 2, gradient_clip_val=MAX_NORM)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(lightning, task)
    fit(lightning, task, resumed, resume_from=tmp_path / "half.ckpt", gradient_clip_val=MAX_NORM)
    task.assert_same(resumed.ivon, model.ivon)


def test_automatic_optimisation_with_several_draws(lightning, task):
    """The closure runs once for each draw of `mc_samples`, with the same batch."""
    model = module(lightning, task, mc_samples=2)
    fit(lightning, task, model)
    by_hand = task.model()
    optimizer = task.optimizer(by_hand)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for k in range(STEPS):
        for _ in range(2):
            with optimizer.sampled_params(train=True):
                task.loss(by_hand, task.batch(k)).backward()
        optimizer.step()
        if k % 3 == 2:
            scheduler.step()
    task.assert_same(model.ivon, optimizer)
    task.assert_learned(model.layers, model.ivon, at_most=0.6)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": MAX_NORM}], ids=["", "clipped"])
def test_accumulate_grad_batches_with_draws_of_their_own(lightning, task, tmp_path, options):
    """Lightning calls the optimizer for the last micro-batch only, and clips within its closure."""
    options |= {"batch": 8, "accumulate_grad_batches": 2}
    model = module(lightning, task, own_draws=True)
    fit(lightning, task, model, **options)
    task.assert_same(model.ivon, plain(task, draws=2, clip="gradient_clip_val" in options))
    task.assert_learned(model.layers, model.ivon, at_most=0.9)

    half = module(lightning, task, own_draws=True)
    trainer = fit(lightning, task, half, epochs=EPOCHS // 2, **options)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(lightning, task, own_draws=True)
    fit(lightning, task, resumed, resume_from=tmp_path / "half.ckpt", **options)
    task.assert_same(resumed.ivon, model.ivon)


def test_accumulate_grad_batches_without_draws_is_refused(lightning, task):
    """All micro-batches but the last would be computed at the mean, and dropped."""
    with pytest.raises(RuntimeError, match="sampled_params"):
        fit(lightning, task, module(lightning, task), batch=8, accumulate_grad_batches=2)


def noise(step):
    return torch.Generator().manual_seed(step)


def test_manual_optimisation_equals_the_plain_loop(lightning, task):
    """Lightning calls step() with a closure that does nothing: it must not count as one more draw."""
    model = module(lightning, task, manual=True)
    fit(lightning, task, model)
    by_hand = task.model()
    optimizer = task.optimizer(by_hand)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for k in range(STEPS):
        with optimizer.sampled_params(train=True, generator=noise(k)):
            task.loss(by_hand, task.batch(k)).backward()
        optimizer.step()
        if k % 3 == 2:
            scheduler.step()
    task.assert_same(model.ivon, optimizer)
    task.assert_learned(model.layers, model.ivon, at_most=0.6)
