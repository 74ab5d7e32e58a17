"""What an evaluation has predicted, kept beside its record: mixtures and comparisons are made of it."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from experiments.engine import files
from experiments.errors import RunError

NAME = "predictions.safetensors"
MOST = 10_000_000  # numbers; ImageNet's, five times as many, are not kept


def save(folder: Path, probabilities: Tensor, labels: Tensor) -> None:
    """Keep predictive probabilities (N, C) and labels (N,), unless they are too many."""
    if probabilities.numel() <= MOST:
        content = {"probabilities": probabilities.contiguous(), "labels": labels.contiguous()}
        files.replace(folder / NAME, safetensors.torch.save(content))


def load(folder: Path) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) and labels (N,); RunError if they are gone or damaged."""
    try:
        content = safetensors.torch.load_file(folder / NAME)
    except (OSError, safetensors.SafetensorError):
        raise RunError(
            f"the predictions in {folder} are gone; remove {folder}.json to evaluate once more"
        ) from None
    return content["probabilities"], content["labels"]
