"""A perceptron on digits with Lightning's automatic optimisation: IVON with accumulated, clipped gradients.

Two hooks begin and end each draw. Run again with more --epochs, it goes on from the last checkpoint.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import ivon

TRAINING = 1500  # of the 1797 images
# For a training of a few hundred steps: a beta2 nearer to 1 would leave the Hessian where it begins.
SETTINGS = {"hess_init": 0.5, "beta2": 0.995, "weight_decay": 1e-3}


class Classifier(lightning.LightningModule):
    """Every micro-batch at a draw of its own. Lightning has divided its loss by their number: they add up."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        self.draw = ExitStack()

    def training_step(self, batch, batch_idx):
        self.draw.enter_context(ivon.sampled_params(self.optimizers(), train=True, reduction="sum"))
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def on_after_backward(self) -> None:
        self.draw.close()  # clipping comes next, and finds the sum of the gradients

    def configure_optimizers(self):
        optimizer = ivon.IVON(self.layers.parameters(), lr=1.0, ess=TRAINING, **SETTINGS)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.995)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class LeaveDraw(Callback):
    """After an exception, too, the weights are the mean again."""

    def on_exception(self, trainer, pl_module, exception) -> None:
        pl_module.draw.__exit__(type(exception), exception, exception.__traceback__)


def train(folder: Path, epochs: int) -> Classifier:
    """The module after so many epochs."""
    torch.manual_seed(0)
    model = Classifier()
    data = TensorDataset(*(part[:TRAINING] for part in digits()))
    # Its order is a function of the epoch, also after resuming.
    order = DistributedSampler(data, num_replicas=1, rank=0, seed=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,  # of the norm of the gradient of the whole batch
        callbacks=[ModelCheckpoint(folder, save_last=True), LeaveDraw()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = folder / "last.ckpt"
    loader = DataLoader(data, batch_size=25, sampler=order)
    trainer.fit(model, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    return model


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 64) in [0, 1] and labels (N,)."""
    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoints")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    model = train(arguments.folder, arguments.epochs)
    images, labels = (data[TRAINING:] for data in digits())
    for draws in (0, 16):
        log_probs = ivon.predict(model.layers, images, draws, posterior=model.optimizers())
        accuracy = (log_probs.argmax(dim=1) == labels).float().mean().item()
        nll = nn.functional.nll_loss(log_probs, labels).item()
        print(f"{draws:2d} posterior draws: accuracy {accuracy:.3f}, NLL {nll:.3f}")


if __name__ == "__main__":
    main()
