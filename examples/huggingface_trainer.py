"""A perceptron on digits with Hugging Face's Trainer: IVON with gradient accumulation and clipping.

`IVONTrainer` is all that IVON needs. Run again with more --epochs, it goes on from the last checkpoint.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import get_last_checkpoint

import ivon

TRAINING = 1500  # of the 1797 images
# For a training of a few hundred steps: a beta2 nearer to 1 would leave the Hessian where it begins.
SETTINGS = {"hess_init": 0.5, "beta2": 0.995, "weight_decay": 1e-3}


class Classifier(nn.Module):
    """Any model of transformers would do as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        logits = self.layers(images)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class IVONTrainer(Trainer):
    """Every micro-batch at a draw of its own. Trainer has divided its loss by their number: they add up."""

    def training_step(self, *args, **kwargs):
        with ivon.sampled_params(self.optimizer, train=True, reduction="sum"):
            return super().training_step(*args, **kwargs)


def train(folder: Path, epochs: int) -> tuple[Classifier, ivon.IVON]:
    """The network and the optimizer after so many epochs."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = ivon.IVON(model.parameters(), lr=1.0, ess=TRAINING, **SETTINGS)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.995)
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=25,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,  # of the gradient of the whole batch; Trainer's default
        save_steps=20,  # also in the middle of an epoch
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    images, labels = digits()
    data = [{"images": x, "labels": y} for x, y in zip(images[:TRAINING], labels[:TRAINING], strict=True)]
    trainer = IVONTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    return model, optimizer


def digits() -> tuple[Tensor, Tensor]:
    """Images (N, 64) in [0, 1] and labels (N,)."""
    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoints")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    model, optimizer = train(arguments.folder, arguments.epochs)
    images, labels = (data[TRAINING:] for data in digits())
    for draws in (0, 16):
        log_probs = ivon.predict(model, images, draws, posterior=optimizer)
        accuracy = (log_probs.argmax(dim=1) == labels).float().mean().item()
        nll = nn.functional.nll_loss(log_probs, labels).item()
        print(f"{draws:2d} posterior draws: accuracy {accuracy:.3f}, NLL {nll:.3f}")


if __name__ == "__main__":
    main()
