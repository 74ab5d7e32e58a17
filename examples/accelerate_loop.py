"""A perceptron on digits in a loop with accelerate: IVON with gradient accumulation and clipping.

One `with` is all that IVON needs. Run again with more --epochs, it goes on from the last checkpoint.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ivon

TRAINING = 1500  # of the 1797 images
# For a training of a few hundred steps: a beta2 nearer to 1 would leave the Hessian where it begins.
SETTINGS = {"hess_init": 0.5, "beta2": 0.995, "weight_decay": 1e-3}


def train(folder: Path, epochs: int) -> tuple[nn.Module, ivon.IVON]:
    """The network and the optimizer after so many epochs."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    inner = ivon.IVON(network.parameters(), lr=1.0, ess=TRAINING, **SETTINGS)
    schedule = torch.optim.lr_scheduler.ExponentialLR(inner, gamma=0.995)
    data = TensorDataset(*(part[:TRAINING] for part in digits()))
    loader = DataLoader(data, batch_size=25, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(network, inner, loader, schedule)

    done = max((epoch for epoch in range(1, epochs + 1) if checkpoint(folder, epoch).exists()), default=0)
    if done:
        accelerator.load_state(str(checkpoint(folder, done)))
    for epoch in range(done + 1, epochs + 1):
        for images, labels in loader:
            with accelerator.accumulate(model):
                # Every micro-batch at a draw of its own. accelerate has divided its loss by their number, so
                # that the gradients of the draws add up.
                with ivon.sampled_params(optimizer, train=True, reduction="sum"):
                    accelerator.backward(nn.functional.cross_entropy(model(images), labels))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # of the whole batch
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        accelerator.save_state(str(checkpoint(folder, epoch)))
    return network, inner


def checkpoint(folder: Path, epoch: int) -> Path:
    """That after so many epochs."""
    return folder / f"epoch_{epoch}"


def digits() -> tuple[torch.Tensor, torch.Tensor]:
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
