"""GPT-2 as the paper trains it. Sizes are known without PyTorch; the network is in `network`."""

from experiments.models.gpt2.sizes import SIZES, Size

__all__ = ["SIZES", "Size"]
