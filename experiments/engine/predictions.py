"""What an evaluation has predicted, kept beside its record: mixtures and comparisons are made of it."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from experiments.engine import files
from experiments.errors import RunError

NAME = "predictions.safetensors"
ROUNDING = 1e-3  # of a sum of 16-bit probabilities
MOST = 10_000_000  # numbers; ImageNet's, five times as many, are not kept


def save(folder: Path, probabilities: Tensor, labels: Tensor) -> None:
    """Keep predictive probabilities (N, C) and labels (N,), unless they are too many."""
    if probabilities.numel() <= MOST:
        content = {"probabilities": probabilities.contiguous(), "labels": labels.contiguous()}
        files.replace(folder / NAME, safetensors.torch.save(content))


def load(folder: Path) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) and labels (N,); RunError if they are gone or damaged."""
    remedy = f"remove {folder}.json to evaluate once more"
    try:
        content = safetensors.torch.load_file(folder / NAME)
        probabilities, labels = content["probabilities"], content["labels"]
    except (OSError, safetensors.SafetensorError, KeyError):
        raise RunError(f"the predictions in {folder} are gone; {remedy}") from None
    if not _are_predictions(probabilities, labels):
        raise RunError(f"the predictions in {folder} are damaged; {remedy}")
    return probabilities, labels


def _are_predictions(probabilities: Tensor, labels: Tensor) -> bool:
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        return False
    classes = (labels >= 0) & (labels < probabilities.shape[1])
    return bool(((probabilities >= 0) & (probabilities <= 1 + ROUNDING)).all() and classes.all())
