"""A vision transformer on digits with Hugging Face's Trainer: IVON with gradient accumulation and clipping.

`IVONTrainer` is all that IVON needs. Run again with more --epochs, it goes on from the last checkpoint.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.trainer_utils import get_last_checkpoint

import ivon

TRAINING = 1500  # of the 1797 images
# For a training of a few hundred steps: a beta2 nearer to 1 would leave the Hessian where it begins.
SETTINGS = {"hess_init": 0.5, "beta2": 0.995, "weight_decay": 1e-3}


class IVONTrainer(Trainer):
    """Every micro-batch at a draw of its own. Trainer has divided its loss by their number: they add up."""

    def training_step(self, *args, **kwargs):
        with ivon.sampled_params(self.optimizer, train=True, reduction="sum"):
            return super().training_step(*args, **kwargs)


def train(folder: Path, epochs: int) -> tuple[ViTForImageClassification, ivon.IVON]:
    """The network and the optimizer after so many epochs."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    optimizer = ivon.IVON(model.parameters(), lr=1.0, ess=TRAINING, **SETTINGS)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.995)
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=25,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,  # of the gradient of the whole batch; Trainer's default
        save_strategy="steps",
        save_steps=20,
        report_to="none",
        disable_tqdm=True,
    )
    images, labels = digits()
    data = [
        {"pixel_values": x, "labels": y} for x, y in zip(images[:TRAINING], labels[:TRAINING], strict=True)
    ]
    trainer = IVONTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    return model, optimizer


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,)."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(found.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoints")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    model, optimizer = train(arguments.folder, arguments.epochs)
    images, labels = (data[TRAINING:] for data in digits())
    for draws in (0, 16):
        log_probs = ivon.predict(model, {"pixel_values": images}, draws, posterior=optimizer)
        accuracy = (log_probs.argmax(dim=1) == labels).float().mean().item()
        nll = torch.nn.functional.nll_loss(log_probs, labels).item()
        print(f"{draws:2d} posterior draws: accuracy {accuracy:.3f}, NLL {nll:.3f}")


if __name__ == "__main__":
    main()
